"""
The table of mutants in `docs/explanation/reliability.md`.
"""

import re

from tests.reliability.mutation.mutants import MUTANTS
from tests.reliability.mutation.runner import PROJECT

PAGE = (PROJECT / "docs" / "explanation" / "reliability.md").read_text()


def test_the_page_lists_every_mutant_and_the_check_that_caught_it():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)

    assert [(name, says) for name, says, _ in rows] == [(each.name, each.says) for each in MUTANTS]
    assert all("nothing" not in caught_by for _, _, caught_by in rows)
