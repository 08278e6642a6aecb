"""
Printing tables so that each id, name and code in them can be copied.
"""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from outbox.dead_letters.redaction import printable
from outbox.validation import MAX_KEY_BYTES


def print_table(console: Console, table: Table) -> None:
    """
    Print *table* with a line for each row, however wide it is.

    A terminal that is too narrow continues the lines below; rich would cut or fold the cells, and
    so would it in a file or a pipe, which have no width.
    """
    # The width of a print is at most that of its console.
    wide = Console(file=console.file, width=_ENDLESS)
    needed = Measurement.get(wide, wide.options, table).maximum
    wide.width = max(needed, 1)
    wide.print(table, crop=False)


def short(text: str) -> str:
    """
    Return *text* for a cell of a list, on one line.

    It is whole if it can be an id, a type or a code. Anything longer was written by another
    program, and would make each line of the table as long; `show` and `export` have all of it.
    """
    shown = printable(text[: MAX_KEY_BYTES + 1]).replace("\n", "\\n")
    return shown if len(shown) <= MAX_KEY_BYTES else shown[: MAX_KEY_BYTES - 1] + "…"


_ENDLESS = 1_000_000
"""More than the longest cells have in all."""
