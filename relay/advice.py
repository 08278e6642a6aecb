"""
What would let the events leave that the outbox holds, in words: a line for each cause. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import assert_never

from outbox.transports.inspection import exchange_text
from outbox.transports.routes import RouteState
from relay.event_group import EventGroup, EventState, RouteCount

LATE_AFTER = timedelta(seconds=15)
"""Ready events that are younger say nothing: a relay may be about to publish them."""


def advice(groups: Iterable[EventGroup], *, main_exchange: str) -> list[str]:
    """Return a line for each cause that keeps *groups* in the outbox, without repetitions."""
    lines = (line for group in groups for line in _of_group(group, main_exchange))
    return list(dict.fromkeys(lines))


def _of_group(group: EventGroup, main_exchange: str) -> Iterator[str]:
    missing = [each for each in group.routes if each.binding in _MISSING]
    yield from (_missing(group.state, each, main_exchange) for each in missing)
    match group.state:
        case EventState.UNROUTABLE:
            yield from _unroutable(group)
        case EventState.REFUSED:
            yield from (_refused(each) for each in group.routes if each not in missing)
        case EventState.UNSETTLED:
            yield (
                "unsettled: a trigger or constraint of another program refuses to have the row"
                ' deleted or changed: see "A row is unsettled" in docs/how-to/troubleshoot.md'
            )
        case EventState.BLOCKED:
            yield _blocked(group)
        case EventState.READY:
            if group.oldest_age > LATE_AFTER and not missing:
                yield (
                    "ready: no relay runs, or it cannot publish, or it is behind: /readyz of"
                    " `relay run` names what it waits for"
                )
        case EventState.WAITING | EventState.IN_FLIGHT:
            return
        case _:
            assert_never(group.state)


_MISSING = {RouteState.NO_QUEUE, RouteState.NO_EXCHANGE}


def _missing(state: EventState, route: RouteCount, main_exchange: str) -> str:
    if route.binding is RouteState.NO_QUEUE and not route.exchange:
        return (
            f"{state}: no queue is named {route.routing_key}, and the default exchange routes by"
            " the name: declare the queue, or record the event with another routing key"
        )
    if route.binding is RouteState.NO_QUEUE:
        return (
            f"{state}: no queue is bound to {route.routing_key} on {_named(route)}: bind"
            " one; `consumer topology` binds those of a consumer"
        )
    if route.exchange == main_exchange:
        return (
            f"{state}: exchange {route.exchange} does not exist: `relay topology` declares it, and"
            " so does `relay run` when it starts"
        )
    return (
        f"{state}: exchange {route.exchange} does not exist: name it in MQ_EXCHANGES, so that"
        " relays and consumers declare it, and bind a queue"
    )


def _named(route: RouteCount) -> str:
    return exchange_text(route.exchange or "")


def _unroutable(group: EventGroup) -> Iterator[str]:
    for each in group.routes:
        if each.binding is RouteState.BOUND:
            yield (
                f"unroutable: a queue is bound to {each.routing_key} on {_named(each)}"
                f" by now: the next attempt is due in {_rounded(group.next_attempt_in)}"
            )
        elif each.binding is RouteState.UNKNOWN:
            yield (
                f"unroutable: no queue was bound to {each.routing_key} on"
                f" {_named(each)} at the last attempt: bind one; `consumer topology` binds those"
                " of a consumer"
            )


def _refused(route: RouteCount) -> str:
    return (
        f"refused: a queue that {route.routing_key} leads to on {_named(route)} is full,"
        " or the relay's user may not write to the exchange: make room, or grant the permission"
    )


def _blocked(group: EventGroup) -> str:
    behind = "blocked: an earlier event of the same ordering key"
    if group.reason == EventState.WAITING:
        return f"{behind} waits for its time, in {_rounded(group.next_attempt_in)}"
    return f"{behind} has failed ({group.reason}): these leave after it"


def _rounded(duration: timedelta | None) -> str:
    return str(timedelta(seconds=int((duration or timedelta(0)).total_seconds())))


def binding(routes: Sequence[RouteCount]) -> RouteState | None:
    """Return the worst state of *routes*, which are of one group; None without any."""
    return next((state for state in _WORST_FIRST if state in {r.binding for r in routes}), None)


_WORST_FIRST = (
    RouteState.NO_EXCHANGE,
    RouteState.NO_QUEUE,
    RouteState.UNKNOWN,
    RouteState.BOUND,
)
