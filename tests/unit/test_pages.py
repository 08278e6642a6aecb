"""Every test that a page names exists."""

from pathlib import Path

import pytest

from tests.support.pages import REPOSITORY, missing_tests, pages_with_tests, rows_of_table

BAD_INPUTS = REPOSITORY / "docs" / "reference" / "bad-inputs.md"
FEWEST = 165
HERE = Path(__file__).relative_to(REPOSITORY)


@pytest.mark.parametrize("page", pages_with_tests(), ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    assert missing_tests(page) == []


def test_a_missing_test_that_a_page_names_is_found(tmp_path):
    page = tmp_path / "page.md"
    there = "test_every_test_that_a_page_names_exists"
    page.write_text(
        f"`{HERE}::{there}`, `{HERE}::{there}[a]`, `{HERE}::BAD_INPUTS`,\n"
        f"`{HERE}::test_nothing` and `tests/test_none.py::{there}`"
    )

    assert missing_tests(page) == [
        f"{HERE}::BAD_INPUTS",
        f"{HERE}::test_nothing",
        f"tests/test_none.py::{there}",
    ]


def test_the_page_has_all_bad_inputs_each_with_its_tests_or_a_reason():
    rows = list(rows_of_table(BAD_INPUTS))

    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= FEWEST
    for _, bad_input, outcome, proof in rows:
        assert bad_input
        assert outcome
        assert "`tests/" in proof or proof.startswith("Not in this version")
