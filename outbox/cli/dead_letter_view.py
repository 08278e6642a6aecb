"""
How dead letters look on a terminal.
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
"""Columns of a file or a pipe, whose lines nobody wants folded."""


def letters(console: Console, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """A line for each letter."""
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
    """A line for each thing that is known of one letter."""
    table = Table(show_header=False)
    for name, value in shown.items():
        if isinstance(value, Mapping):
            for inner, header in value.items():
                table.add_row(_text(f"{name}.{inner}"), _text(header))
        else:
            table.add_row(name, _text(value))
    _print(console, table)


def tallies(console: Console, found: Sequence[TypeCount]) -> None:
    """A line for each type and reason."""
    table = Table("type", "reason", "letters")
    for tally in found:
        table.add_row(_text(tally.type), _text(tally.reason), str(tally.letters))
    _print(console, table)


def reason_counts(console: Console, found: Sequence[ReasonCount]) -> None:
    """A line for each reason."""
    table = Table("reason", "letters", "oldest", title="dead letters", title_justify="left")
    for pile in found:
        table.add_row(_text(pile.reason), f"{pile.letters:,}", age(pile.oldest))
    if found:
        _print(console, table)
    else:
        console.print("no dead letters")


def outcome(console: Console, verb: str, summary: Summary, *, selected: int) -> None:
    """What has come of a run, in a few lines."""
    console.print(f"{verb} {summary.done:,} of {selected:,}")
    for code, count in summary.left.most_common():
        console.print(f"{count:,} left: {code}")
    duplicates(console, summary.duplicates)
    if summary.interrupted:
        console.print("interrupted: the rest was not touched")


def duplicates(console: Console, count: int, *, rerun: bool = False) -> None:
    """A line about messages that have had their effect, if there are any."""
    if count:
        fate = "take effect once more" if rerun else "be dropped as duplicates"
        console.print(f"{count:,} are completed already and will {fate}")


def bar(console: Console) -> Progress:
    """A progress bar, which is there only on a terminal."""
    return Progress(console=console, disable=not console.is_terminal, transient=True)


def age(duration: timedelta) -> str:
    """*duration* in the largest unit that fits, as the filters take it."""
    seconds = max(int(duration.total_seconds()), 0)
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _text(value: object) -> Text:
    return Text("" if value is None else printable(str(value)))


def _print(console: Console, table: Table) -> None:
    console.print(table, width=None if console.is_terminal else max(console.width, _WIDE))
