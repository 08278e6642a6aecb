"""
Routing keys of events in the outbox, and whether a queue is bound for them: pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from outbox.checks.result import Check, CheckResult
from outbox.transports.routes import RouteState


@dataclass(frozen=True, slots=True)
class Waiting:
    """*events* in the outbox will be published to *exchange* with *routing_key*."""

    exchange: str
    routing_key: str
    events: int


def of_routes(
    waiting: Sequence[Waiting], states: Mapping[str, Mapping[str, RouteState]]
) -> Iterator[CheckResult]:
    """Judge events that are *waiting* by the *states* of their exchange and routing key."""
    check = Check.ROUTING_KEYS
    unknown, routed = 0, 0
    for each in waiting:
        state = states.get(each.exchange, {}).get(each.routing_key, RouteState.UNKNOWN)
        if state is RouteState.NO_QUEUE and not each.exchange:
            yield CheckResult.error(
                check,
                f"{_events(each.events)} with the routing key {each.routing_key}: no queue has"
                " this name, and they go to the default exchange, which routes by the name",
            )
        elif state is RouteState.NO_QUEUE:
            yield CheckResult.error(
                check,
                f"{_events(each.events)} with the routing key {each.routing_key}: no queue"
                f" is bound to exchange {each.exchange} for it: bind one, as `consumer topology`"
                " does",
            )
        elif state is RouteState.NO_EXCHANGE:
            yield CheckResult.error(
                check,
                f"{_events(each.events)} with the routing key {each.routing_key}: exchange"
                f" {each.exchange} does not exist: name it in MQ_EXCHANGES, and bind a queue",
            )
        elif state is RouteState.UNKNOWN:
            unknown += each.events
        else:
            routed += each.events
    if unknown:
        because = "headers, a policy or a plugin decide where the broker routes them"
        yield CheckResult.not_checked(check, f"the routes of {_events(unknown)}", because=because)
    if routed or not waiting:
        text = f"{_events(routed)} would reach a queue" if routed else "the outbox is empty"
        yield CheckResult.ok(check, text)


def _events(number: int) -> str:
    return "1 waiting event" if number == 1 else f"{number:,} waiting events"
