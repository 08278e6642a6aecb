"""
The status of the relay, printed for people.
"""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from outbox.cli import console as commands
from outbox.cli import dead_letter_view
from outbox.dead_letters.redaction import printable
from outbox.transports.routes import RouteState
from relay.advice import advice, binding
from relay.event_group import EventGroup
from relay.status import Status
from relay.storage.base import Backlog

MOST_LINES = 50
"""Longer tables are cut; the output as JSON has all lines."""


def show(console: Console, status: Status, *, main_exchange: str) -> None:
    """Print *status* for people."""
    commands.show("outbox", _outbox(status.outbox))
    events = status.outbox.events
    if events:
        _show_cut("events", _EVENT_COLUMNS, [_event_line(group) for group in events])
        _show_cut("routing keys", _ROUTE_COLUMNS, _route_lines(events))
        lines = advice(events, main_exchange=main_exchange)
        if status.bindings_unknown is not None:
            lines.append(f"binding unknown: {status.bindings_unknown}")
        for line in lines[:MOST_LINES]:
            console.print(printable(line), markup=False, highlight=False)
    dead_letter_view.reason_counts(console, status.dead_letters)


def _outbox(backlog: Backlog) -> dict[str, object]:
    rows: dict[str, object] = {
        "rows": backlog.rows,
        "age of the oldest ready row": backlog.oldest_ready_age,
    }
    if backlog.events:
        rows["age of the oldest overdue row"] = backlog.oldest_age
    if backlog.dead_tuples is not None:
        rows["rows to vacuum"] = backlog.dead_tuples
        rows["age of the oldest snapshot"] = backlog.oldest_snapshot_age
        rows["transactions since then"] = backlog.oldest_snapshot_transactions
    return rows


_EVENT_COLUMNS = (
    *("state", "type", "reason", "binding"),
    *("rows", "attempts", "oldest", "next attempt in"),
)
_ROUTE_COLUMNS = ("routing key", "exchange", "binding", "rows")


def _event_line(group: EventGroup) -> tuple[object, ...]:
    worst = binding(group.routes)
    return (
        group.state,
        group.type,
        group.reason,
        None if worst is None else _words(worst),
        commands.shown(group.rows) if group.exact else f"≥ {group.rows:,}",
        group.attempts,
        group.oldest_age,
        group.next_attempt_in,
    )


def _route_lines(events: Sequence[EventGroup]) -> list[tuple[object, ...]]:
    rows: Counter[tuple[str | None, str, RouteState]] = Counter()
    for group in events:
        for each in group.routes:
            rows[each.exchange, each.routing_key, each.binding] += each.rows
    return [
        (key, exchange, _words(state), number)
        for (exchange, key, state), number in rows.most_common()
    ]


def _words(state: RouteState) -> str:
    return state.value.replace("_", " ")


def _show_cut(title: str, columns: Sequence[str], lines: list[tuple[object, ...]]) -> None:
    commands.show_lines(title, columns, lines[:MOST_LINES], names=columns.index("binding") + 1)
    if (left := len(lines) - MOST_LINES) > 0:
        commands.console.print(f"and {left:,} more; `--json` has all")
