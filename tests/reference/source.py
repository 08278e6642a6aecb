"""
What the generated pages read in the source itself: docstrings below names, and links to files.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("outbox", "relay", "consumer", "outbox_demo", "outbox_relay")


def link(path: str | Path, text: str = "") -> str:
    """A link from a page in docs/reference to the file at *path* in the repository."""
    return f"[`{text or path}`](../../{path})"


def product_files() -> Iterator[Path]:
    """The Python files of the product."""
    for package in PRODUCT:
        yield from sorted((REPOSITORY / package).rglob("*.py"))


def docstrings_below(path: str, class_name: str) -> dict[str, str]:
    """The names that a class assigns, each with the string that stands below it, or none."""
    tree = ast.parse((REPOSITORY / path).read_text())
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    found: dict[str, str] = {}
    last = ""
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=last)]):
                found[last] = ""
            case ast.Expr(value=ast.Constant(value=str() as text)) if last:
                found[last] = " ".join(text.split())
    return found
