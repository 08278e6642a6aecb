"""
The events in the outbox by state: why they have not left it yet. Pure decisions, no I/O.

    in_flight     a relay publishes it now: claimed, and not yet confirmed
    ready         could be published now
    unroutable    the broker returned it: no queue is bound for its routing key
    refused       the broker refused it: a queue is full, or a permission is missing
    unsettled     the database refused to delete or to change the row after the publish
    blocked       behind an earlier event of its ordering key that waits
    waiting       its producer gave a time that lies ahead

Only a waiting event stays because its producer wants it to; all others should have left. An event
that was unroutable or refused is ready, with that reason, once a relay begins its next attempt.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from outbox.transports.routes import RouteState
from outbox.validation import is_type

OTHER = "other"
"""Stands for a reason code that this version does not know, and for further types."""


class EventState(StrEnum):
    """Why an event is in the outbox; see the docstring of the module."""

    IN_FLIGHT = "in_flight"
    READY = "ready"
    UNROUTABLE = "unroutable"
    REFUSED = "refused"
    UNSETTLED = "unsettled"
    BLOCKED = "blocked"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class RouteCount:
    """
    Rows of a group with the same *routing_key*.

    Args:
        exchange: None stands for the configured exchange.
        binding: Whether the broker would bring them to a queue.

    """

    exchange: str | None
    routing_key: str
    rows: int
    binding: RouteState = RouteState.UNKNOWN


@dataclass(frozen=True, slots=True)
class EventGroup:
    """
    Events of one *state*, *type* and *reason*.

    Args:
        reason: The code of the last error, and of a blocked event what blocks it; None for none.
        rows: Their number; there may be more if it is not *exact*.
        attempts: The most publishes that one of them has had.
        oldest_age: The time since the first of them was inserted.
        next_attempt_in: The time until the next of them is due, zero if it is; None if no time
            decides.
        routes: Their most frequent routing keys, if asked for.

    """

    state: EventState
    type: str
    reason: str | None
    rows: int
    exact: bool
    attempts: int
    oldest_age: timedelta
    next_attempt_in: timedelta | None = None
    routes: Sequence[RouteCount] = ()

    @property
    def is_overdue(self) -> bool:
        """Whether the events should have left the outbox: no wish of a producer holds them."""
        return self.state is not EventState.WAITING or self.reason is not None


def bounded(found: Sequence[EventGroup], *, types: int) -> list[EventGroup]:
    """
    Return *found* with at most so many *types*: the most frequent ones, the rest as `other`.

    A type that no event can have is `other` too: it may be any text.
    """
    rows: Counter[str] = Counter()
    for group in found:
        if is_type(group.type):
            rows[group.type] += group.rows
    kept = set(sorted(rows, key=lambda name: (-rows[name], name))[:types])
    alike: defaultdict[tuple[EventState, str | None, str], list[EventGroup]] = defaultdict(list)
    for group in found:
        alike[group.state, group.reason, group.type if group.type in kept else OTHER].append(group)
    return [
        replace(
            same[0],
            type=name,
            rows=sum(each.rows for each in same),
            exact=all(each.exact for each in same),
            attempts=max(each.attempts for each in same),
            oldest_age=max(each.oldest_age for each in same),
            next_attempt_in=soonest(each.next_attempt_in for each in same),
            routes=(),
        )
        for (_, _, name), same in alike.items()
    ]


def oldest_age(found: Iterable[EventGroup], *states: EventState) -> timedelta:
    """Return the age of the oldest event of *states*; without any, of all that are overdue."""
    ages = (
        each.oldest_age for each in found if (each.state in states if states else each.is_overdue)
    )
    return max(ages, default=timedelta(0))


def soonest(times: Iterable[timedelta | None]) -> timedelta | None:
    """Return the shortest of *times*, none of which is below zero; None without any."""
    known = [time for time in times if time is not None]
    return max(min(known), timedelta(0)) if known else None
