"""
A snapshot on a terminal.
"""

from collections.abc import Sequence
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from outbox.cli.console import shown
from outbox.cli.tables import print_table, short
from relay.monitor.alerts import Alert
from relay.monitor.section import NOTHING, Section
from relay.monitor.sections import sections
from relay.monitor.snapshot import Snapshot

Drawing: TypeAlias = RenderableType

MOST_LINES = 200
"""The most lines of a table; a thousand take seconds, in which no key is read."""
MOST_LINES_ON_SCREEN = 50


def print_all(console: Console, found: Snapshot, raised: Sequence[Alert]) -> None:
    """Print everything but the lines after the first of long tables; each line is whole."""
    for section in sections(found, raised):
        if section.lines:
            print_table(console, _table(section, most=MOST_LINES))
        else:
            console.print(short(section.title), markup=False, highlight=False)


def screen(found: Snapshot, raised: Sequence[Alert], *, heading: str, width: int) -> Drawing:
    """Return everything for a terminal of this *width*: columns are left out, and cells cut."""
    first = Text(heading, style="bold", no_wrap=True, overflow="ellipsis")
    parts = (
        _table(section, most=MOST_LINES_ON_SCREEN, width=width)
        if section.lines
        else Text(short(section.title))
        for section in sections(found, raised)
    )
    return Group(first, *parts)


def _table(section: Section, *, most: int, width: int | None = None) -> Table:
    lines = section.lines[:most]
    title = Text(short(_title(section, len(lines))))
    table = Table(title=title, title_justify="left", title_style="bold")
    if width is not None:  # without borders, so that more fits on a screen
        table.box, table.padding = None, (0, 2, 0, 0)
    kept = [
        number
        for number, column in enumerate(section.columns)
        if width is None or width >= column.from_width
    ]
    for number in kept:
        column = section.columns[number]
        # A number that is cut would be another number.
        is_whole = column.whole or not column.is_text
        longest = max(len(column.name), *(len(shown(line[number])) for line in lines))
        table.add_column(
            column.name,
            justify="left" if column.is_text else "right",
            no_wrap=not column.folds,
            overflow="fold" if column.folds else "ellipsis",
            min_width=longest if is_whole else None,
        )
    styles = section.styles[:most] or [""] * len(lines)
    for line, style in zip(lines, styles, strict=True):
        cells = [NOTHING if line[number] == NOTHING else shown(line[number]) for number in kept]
        table.add_row(*(Text(short(cell)) for cell in cells), style=style)
    return table


def _title(section: Section, drawn: int) -> str:
    if (number := len(section.lines)) == drawn:
        return section.title
    return f"{section.title}: {drawn:,} of {number:,}; --once --json has all"
