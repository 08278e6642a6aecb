"""
How keys look on a terminal, and as JSON.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console

from outbox.cli.console import show, show_lines
from outbox.cli.dead_letter_view import age
from outbox.encryption.data_keys import MAX_SECONDS
from outbox.key_operations.key_report import KeysReport, KeyState
from outbox.key_operations.wrapped_again import Summary

_HEADINGS = ("key", "state", "active from", "replaced at", "age", "rows", "oldest row")


def show_report(console: Console, report: KeysReport, problems: Sequence[str]) -> None:
    """Print the *report*, and then its *problems*."""
    show_lines("keys", _HEADINGS, [_line(report, key) for key in report.keys], names=4)
    rows: dict[str, object] = {
        "encrypted by keys of persons": _counts(report.by_subject_keys),
        "plain": _counts(report.plain),
        "oldest plain row": _age(report, report.plain_since),
        "the outbox": "refuses plaintext" if report.refuses_plaintext else "accepts plaintext",
    }
    if report.malformed:
        rows["encrypted, but too short"] = _counts(report.malformed)
    if report.subjects is not None:
        rows["unfinished erasures"] = report.subjects.unfinished
    show("rows", rows)
    for line in _needed_for(report):
        console.print(line)
    for problem in problems:
        console.print(f"problem: {problem}")


def as_json(report: KeysReport, problems: Sequence[str]) -> dict[str, Any]:
    """Return the *report* for programs."""
    subjects = report.subjects
    return {
        "at": report.now.isoformat(),
        "keys": [_key_as_json(report, key) for key in report.keys],
        "rows_of_subject_keys": dict(report.by_subject_keys),
        "plain_rows": dict(report.plain),
        "oldest_plain_row_seconds": _seconds(report, report.plain_since),
        "malformed_rows": dict(report.malformed),
        "refuses_plaintext": report.refuses_plaintext,
        "subject_keys": None if subjects is None else dict(subjects.by_key),
        "unfinished_erasures": None if subjects is None else subjects.unfinished,
        "problems": list(problems),
    }


def show_rewrapped(console: Console, summary: Summary, *, current: str) -> None:
    """Print how many rows have another wrapped key, and why others have not."""
    console.print(f"rewrapped by {current}: {_counts(summary.done)}")
    if summary.left:
        console.print(f"left: {_counts(summary.left)}")
    if summary.interrupted:
        console.print("interrupted; the same command goes on")


def time_of(moment: datetime) -> str:
    """Format a time."""
    return moment.isoformat(sep=" ", timespec="seconds")


def _line(report: KeysReport, key: KeyState) -> list[object]:
    return [
        key.id,
        _state(report, key),
        "-" if key.active_from is None else time_of(key.active_from),
        "-" if key.replaced_at is None else time_of(key.replaced_at),
        _age(report, key.active_from),
        _counts(key.rows),
        _age(report, key.oldest_at),
    ]


def _state(report: KeysReport, key: KeyState) -> str:
    if not key.is_known:
        return "unknown"
    if key.is_current:
        return "current"
    is_next = key.active_from is not None and key.active_from > report.now
    return "next" if is_next else "old"


def _needed_for(report: KeysReport) -> list[str]:
    """A line for each old key: whether it may be removed, as far as it is known here."""
    old = [key for key in report.keys if _state(report, key) == "old" and key.replaced_at]
    return [_needed(key, key.replaced_at) for key in old if key.replaced_at is not None]


def _needed(key: KeyState, replaced_at: datetime) -> str:
    last = time_of(replaced_at + timedelta(seconds=MAX_SECONDS))
    if key.rows:
        return f"{key.id}: rows need it: `relay keys rewrap`"
    return (
        f"{key.id}: no row needs it; messages in the broker do that were recorded before {last}:"
        " `relay keys retire` once no queue has any"
    )


def _key_as_json(report: KeysReport, key: KeyState) -> dict[str, Any]:
    return {
        "id": key.id,
        "state": _state(report, key),
        "active_from": None if key.active_from is None else key.active_from.isoformat(),
        "replaced_at": None if key.replaced_at is None else key.replaced_at.isoformat(),
        "age_seconds": _seconds(report, key.active_from),
        "rows": dict(key.rows),
        "oldest_row_seconds": _seconds(report, key.oldest_at),
    }


def _counts(rows: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{number:,} {name}" for name, number in sorted(rows.items()) if number) or "0"
    )


def _age(report: KeysReport, since: datetime | None) -> str:
    if since is None:
        return "-"
    return age(report.now - since) if since <= report.now else f"in {age(since - report.now)}"


def _seconds(report: KeysReport, since: datetime | None) -> float | None:
    return None if since is None else (report.now - since).total_seconds()
