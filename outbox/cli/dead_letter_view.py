"""
Dead letters on a terminal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from outbox.cli.tables import print_table, short
from outbox.dead_letters.expired_body import BODY_EXPIRED, is_expired
from outbox.dead_letters.queries import Counts, Listing
from outbox.dead_letters.redaction import expired_at, metadata, printable
from outbox.dead_letters.replay import Summary
from outbox.dead_letters.store import LetterGroup, ReasonCount

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def letters(console: Console, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Print a line for each dead letter."""
    table = Table("id", "type", "reason", "error", "attempts", "age", "bytes", "message id")
    for row in rows:
        table.add_row(
            *map(
                _short,
                (
                    row["id"],
                    row["type"],
                    row["reason"],
                    row["error_class"],
                    row["attempts"],
                    age(now - row["last_at"]),
                    expired_at(row) if is_expired(row) else row["size_bytes"],
                    row["message_id"],
                ),
            )
        )
    print_table(console, table)


def letter(console: Console, shown: Mapping[str, Any]) -> None:
    """Print a line for each field of one dead letter; long ones are whole below the table."""
    table, whole = Table(show_header=False), []
    for name, value in _fields(shown):
        text = "" if value is None else str(value)
        table.add_row(_short(name), _short(text))
        if short(text).endswith("…"):
            whole.append(f"{printable(name)}: {printable(text)}")
    print_table(console, table)
    for line in whole:
        # Rich would take minutes for a long line.
        print(line, file=console.file)


def _fields(shown: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in shown.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", header) for inner, header in value.items())
        else:
            yield name, value


def groups(console: Console, found: Sequence[LetterGroup]) -> None:
    """Print a line for each cause: type, reason, and class and place of the last error."""
    headings = ("dead letters", "type", "reason", "error", "place", "first failure", "last")
    table = Table(*headings)
    for group in found:
        first, last = (when.isoformat(sep=" ", timespec="seconds") for when in _times(group))
        cause = (group.type, group.reason, group.error_class, group.error_place)
        table.add_row(f"{group.letters:,}", *map(_short, cause), first, last)
    if found:
        print_table(console, table)


def _times(group: LetterGroup) -> tuple[datetime, datetime]:
    return group.first_at.astimezone(UTC), group.last_at.astimezone(UTC)


def as_json(found: Listing) -> dict[str, Any]:
    """Return the groups and the dead letters of *found* for programs, without bodies and keys."""
    return {
        "matches": found.count,
        "groups": [
            {**asdict(group), "first_at": first.isoformat(), "last_at": last.isoformat()}
            for group in found.groups
            for first, last in [_times(group)]
        ],
        "dead_letters": [metadata(letter) for letter in found.letters],
    }


def reason_counts(console: Console, counts: Sequence[ReasonCount]) -> None:
    """Print a line for each reason."""
    table = Table("reason", "number", "oldest", title="dead letters", title_justify="left")
    for count in counts:
        table.add_row(_short(count.reason), f"{count.letters:,}", age(count.oldest))
    if counts:
        print_table(console, table)
    else:
        console.print("no dead letters")


def outcome(console: Console, verb: str, summary: Summary, *, selected: int) -> None:
    """Print the result of a run."""
    console.print(f"{verb} {summary.done:,} of {selected:,}")
    for code, count in summary.left.most_common():
        console.print(f"{count:,} left: {code}")
        if code == BODY_EXPIRED:
            console.print(
                "their bodies are deleted: drop them, or give one a new body with --body"
            )
    duplicates(console, summary.duplicates)
    if summary.interrupted:
        console.print("interrupted: the other dead letters are unchanged")


def counts(console: Console, found: Counts, *, reprocess: bool | None) -> None:
    """Print what a run would do; *reprocess* is None unless it is a replay."""
    groups(console, found.groups)
    console.print(f"{sum(each.letters for each in found.groups):,} selected, nothing changed")
    if reprocess is not None:
        duplicates(console, found.duplicates, reprocess=reprocess)
        if found.expired:
            console.print(
                f"{found.expired:,} have no body any more and will be left: {BODY_EXPIRED}"
            )


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


def _short(value: object) -> Text:
    return Text("" if value is None else short(str(value)))
