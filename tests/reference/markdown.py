"""
The few pieces of Markdown that the generated pages are made of.
"""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold Markdown, in which `|` is escaped here."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def code(text: object) -> str:
    """*text* as code."""
    return f"`{text}`"


def codes(texts: Iterable[object]) -> str:
    """*texts* as code, separated by commas; a dash if there are none."""
    return ", ".join(map(code, texts)) or "–"


def blocks(*texts: str) -> str:
    """*texts* with an empty line between two."""
    return "\n\n".join(texts)


def one_line(text: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
