"""
Finds the tests that pages of the documentation name as proof.

A name is the file and the function, in backticks: `tests/unit/test_x.py::test_a_claim_is_true`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[[^`]*\])?`")


def named_tests(page: Path) -> list[tuple[str, str]]:
    """File and function of each test that *page* names, in its order."""
    return _NAME.findall(page.read_text())


def tests_in(file: Path) -> frozenset[str]:
    """The names of the tests that pytest would find in *file*; none if it does not exist."""
    return _functions(file) if file.is_file() else frozenset()


def missing_tests(page: Path, *, root: Path = REPOSITORY) -> list[str]:
    """The tests that *page* names and that do not exist in the repository at *root*."""
    return [
        f"{file}::{name}" for file, name in named_tests(page) if name not in tests_in(root / file)
    ]


def pages_with_tests(root: Path = REPOSITORY) -> list[Path]:
    """The pages of the documentation that name tests."""
    return [page for page in sorted((root / "docs").rglob("*.md")) if named_tests(page)]


def rows_of_table(page: Path) -> Iterator[list[str]]:
    """The cells of each row of the tables of *page* whose first cell is a number."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].isdigit():
            yield cells


@cache
def _functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )
