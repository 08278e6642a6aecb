"""
Rows of the outbox as the database measures them, and the events that they are. Pure decisions.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from relay.event_group import OTHER, EventGroup, EventState, RouteCount, soonest

MOST_ROUTES = 5
"""The most routing keys of a group that are kept, those with most events."""
FAILED = frozenset({EventState.UNROUTABLE, EventState.REFUSED, EventState.UNSETTLED})
"""The states that have the name of a reason code: the last error of the event."""


class Part(StrEnum):
    """A part of the outbox that is measured by itself, in the order of one index."""

    UNKEYED = "unkeyed"
    """Rows without an ordering key that do not wait, by id."""
    KEYED = "keyed"
    """Rows with an ordering key that do not wait themselves, by id."""
    WAITING = "waiting"
    """Rows with a `not_before`, by that time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """
    Rows of *part* that are alike, as the database counts them.

    Args:
        last_error: The reason code of the last publish; any text, if others wrote the row.
        is_due: Whether a `not_before` has passed.
        is_locked: Whether an open transaction holds the rows.
        head_waits: Whether an earlier row of the ordering key waits.
        head_error: The last error of that row.
        oldest_age: Since the first of the rows was inserted.
        next_in: Until the first of them, or of the rows that block them, is due.
        routing_key: None if the rows were not grouped by it.

    """

    part: Part
    type: str
    rows: int
    last_error: str | None = None
    is_due: bool = False
    is_locked: bool = False
    head_waits: bool = False
    head_error: str | None = None
    attempts: int = 0
    oldest_age: timedelta = timedelta(0)
    next_in: timedelta | None = None
    exchange: str | None = None
    routing_key: str | None = None


def state_of(measured: Measured) -> tuple[EventState, str | None]:
    """Return the state of the rows, and the reason for it."""
    failed = _failed(measured.last_error)
    match measured.part:
        case Part.WAITING:
            if failed is not None:
                return failed, failed.value
            state = EventState.READY if measured.is_due else EventState.WAITING
            return state, _code(measured.last_error)
        case Part.UNKEYED | Part.KEYED:
            if measured.is_locked:
                return EventState.IN_FLIGHT, _code(measured.last_error)
            if measured.head_waits:
                return EventState.BLOCKED, _code(measured.head_error) or EventState.WAITING.value
            return EventState.READY, _code(measured.last_error)
        case _:
            assert_never(measured.part)


def groups(measured: Iterable[Measured], *, limit: int) -> list[EventGroup]:
    """
    Return the events by state, type and reason, of rows that were *measured* part by part.

    At most *limit* rows of each part were read. The groups of one state are sorted by size.
    """
    alike: defaultdict[tuple[EventState, str | None, str], list[Measured]] = defaultdict(list)
    read: Counter[Part] = Counter()
    for each in measured:
        alike[(*state_of(each), each.type)].append(each)
        read[each.part] += each.rows
    cut = {part for part, rows in read.items() if rows >= limit}
    order = list(EventState)
    found = [_group(*key, rows, cut) for key, rows in alike.items()]
    return sorted(found, key=lambda each: (order.index(each.state), -each.rows, each.type))


def _group(
    state: EventState, reason: str | None, name: str, rows: Sequence[Measured], cut: set[Part]
) -> EventGroup:
    waits = state is EventState.BLOCKED or any(each.part is Part.WAITING for each in rows)
    return EventGroup(
        state=state,
        type=name,
        reason=reason,
        rows=sum(each.rows for each in rows),
        exact=cut.isdisjoint(_parts(state) | {each.part for each in rows}),
        attempts=max(each.attempts for each in rows),
        oldest_age=max(each.oldest_age for each in rows),
        next_attempt_in=soonest(each.next_in for each in rows) if waits else None,
        routes=_routes(rows),
    )


def _parts(state: EventState) -> set[Part]:
    """The parts that hold events of *state*, but for those that are due and not yet promoted."""
    match state:
        case EventState.BLOCKED:
            return {Part.KEYED}
        case EventState.READY | EventState.IN_FLIGHT:
            return {Part.UNKEYED, Part.KEYED}
        case (
            EventState.WAITING | EventState.UNROUTABLE | EventState.REFUSED | EventState.UNSETTLED
        ):
            return {Part.WAITING}
        case _:
            assert_never(state)


def _routes(rows: Collection[Measured]) -> list[RouteCount]:
    counted: Counter[tuple[str | None, str]] = Counter()
    for each in rows:
        if each.routing_key is not None:
            counted[each.exchange, each.routing_key] += each.rows
    return [
        RouteCount(exchange, key, number)
        for (exchange, key), number in counted.most_common(MOST_ROUTES)
    ]


def _failed(code: str | None) -> EventState | None:
    return next((state for state in FAILED if state.value == code), None)


def _code(code: str | None) -> str | None:
    """Return *code* if this version knows it: others may write any text there."""
    if code is None:
        return None
    return code if _failed(code) is not None else OTHER
