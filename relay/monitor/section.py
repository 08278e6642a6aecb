"""
A table of the monitor as text, and how its figures are written: pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI = 1024
NOTHING = "-"
"""Stands for a figure that is not known."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of a section.

    Args:
        from_width: It is left out on a terminal that is narrower.
        folds: Whether long text continues on the next line; else it is cut.
        whole: Whether other columns are cut before this one, as before a number.

    """

    name: str
    from_width: int = 0
    is_text: bool = False
    folds: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table, or its *title* alone if it has no lines. Each line may have one of *styles*."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Sequence[object]]
    styles: Sequence[str] = ()


def rate_text(rate: float | None) -> str:
    """Return a number in a second."""
    return NOTHING if rate is None else f"{rate:,.1f}"


def duration_text(duration: timedelta | None) -> str:
    """Return *duration* in milliseconds or seconds."""
    if duration is None:
        return NOTHING
    seconds = duration.total_seconds()
    return f"{seconds * 1_000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def size_text(number: int | None) -> str:
    """Return a *number* of bytes in the largest unit."""
    if number is None:
        return NOTHING
    size, unit = float(number), 0
    while size >= _KIBI and unit < len(_UNITS) - 1:
        size /= _KIBI
        unit += 1
    return f"{size:,.1f} {_UNITS[unit]}" if unit else f"{number} B"
