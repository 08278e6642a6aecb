"""
Dead letters on a terminal.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from outbox.dead_letters.redaction import printable
from outbox.dead_letters.replay import Summary
from outbox.dead_letters.store import ReasonCount, TypeCount

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))
_WIDE = 200
"""Width for a file or a pipe, in which lines must not be folded."""


def letters(console: Console, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Print a line for each dead letter."""
    table = Table("id", "type", "reason", "attempts", "age", "bytes", "message id")
    for row in rows:
        table.add_row(
            *map(
                _text,
                (
                    row["id"],
                    row["type"],
                    row["reason"],
                    row["attempts"],
                    age(now - row["last_at"]),
                    row["size_bytes"],
                    row["message_id"],
                ),
            )
        )
    _print(console, table)


def letter(console: Console, shown: Mapping[str, Any]) -> None:
    """Print a line for each field of one dead letter."""
    table = Table(show_header=False)
    for name, value in shown.items():
        if isinstance(value, Mapping):
            for inner, header in value.items():
                table.add_row(_text(f"{name}.{inner}"), _text(header))
        else:
            table.add_row(name, _text(value))
    _print(console, table)


def type_counts(console: Console, counts: Sequence[TypeCount]) -> None:
    """Print a line for each type and reason."""
    table = Table("type", "reason", "dead letters")
    for count in counts:
        table.add_row(_text(count.type), _text(count.reason), str(count.letters))
    _print(console, table)


def reason_counts(console: Console, counts: Sequence[ReasonCount]) -> None:
    """Print a line for each reason."""
    table = Table("reason", "number", "oldest", title="dead letters", title_justify="left")
    for count in counts:
        table.add_row(_text(count.reason), f"{count.letters:,}", age(count.oldest))
    if counts:
        _print(console, table)
    else:
        console.print("no dead letters")


def outcome(console: Console, verb: str, summary: Summary, *, selected: int) -> None:
    """Print the result of a run."""
    console.print(f"{verb} {summary.done:,} of {selected:,}")
    for code, count in summary.left.most_common():
        console.print(f"{count:,} left: {code}")
    duplicates(console, summary.duplicates)
    if summary.interrupted:
        console.print("interrupted: the other dead letters are unchanged")


def duplicates(console: Console, count: int, *, reprocess: bool = False) -> None:
    """Print the number of messages that were completed before, if there are any."""
    if count:
        effect = "take effect once more" if reprocess else "be dropped as duplicates"
        console.print(f"{count:,} are completed already and will {effect}")


def bar(console: Console) -> Progress:
    """Return a progress bar, which is shown only on a terminal."""
    return Progress(console=console, disable=not console.is_terminal, transient=True)


def age(duration: timedelta) -> str:
    """Format *duration* in its largest unit, as the filters accept it."""
    seconds = max(int(duration.total_seconds()), 0)
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _text(value: object) -> Text:
    return Text("" if value is None else printable(str(value)))


def _print(console: Console, table: Table) -> None:
    console.print(table, width=None if console.is_terminal else max(console.width, _WIDE))
