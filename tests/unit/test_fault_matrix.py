import re
from collections.abc import Iterator

import pytest

from tests.support.processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "fault-matrix.md"
ROWS = [f"F{number}" for number in range(1, 33)]


def rows() -> dict[str, str]:
    """The cells of each row, by its name."""
    found = re.findall(r"^\| (F\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    return dict(found)


def named(cells: str) -> Iterator[tuple[str, str]]:
    """Each test that *cells* name, with the file that is named before it."""
    file = ""
    for word in re.findall(r"`(tests?[/_][^`\n]+)`", cells):
        if word.startswith("tests/"):
            file = word
        elif word.startswith("test_"):
            yield file, word


def test_the_page_has_every_row_once_and_in_order():
    assert list(rows()) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_every_test_that_a_row_names_exists(row):
    tests = list(named(rows()[row]))

    assert tests
    for file, test in tests:
        text = (REPOSITORY / file).read_text()
        defined = re.findall(r"^(?:async )?def (\w+)", text, re.MULTILINE)
        assert test in defined, f"{file} has no {test}"


def test_every_test_of_the_matrix_is_named():
    wanted = {
        name
        for file in (REPOSITORY / "tests" / "matrix").glob("test_*.py")
        if file.name != "test_fault_run.py"  # which is about the harness, and not about a fault
        for name in re.findall(r"^async def (test_\w+)", file.read_text(), re.MULTILINE)
    }

    assert wanted <= {test for _, test in named(PAGE.read_text())}
