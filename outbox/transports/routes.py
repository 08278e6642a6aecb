"""
Where a broker routes a routing key: a pure answer from the bindings that it has.

    an exchange ──matches──▶ a queue                 bound
                ──matches──▶ another exchange        as that exchange routes the key
                ──no match──▶ alternate exchange     as that exchange routes the key
                ──no match, no alternate exchange    no queue

RabbitMQ may let a policy name the alternate exchange, or a plugin decide what matches. Neither can
be seen in the bindings, so the answer is then unknown, unless a queue is bound beside it. A
routing key says nothing about headers: a binding that asks for some takes the message or not.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from outbox.transports.matching import KINDS, takes
from outbox.transports.topology import HeaderPattern, Match


class RouteState(StrEnum):
    """Whether a message with a routing key would reach a queue."""

    BOUND = "bound"
    """At least one queue would get it."""
    NO_QUEUE = "no_queue"
    """The exchange exists, and no queue is bound to it for this key: the broker returns it."""
    NO_EXCHANGE = "no_exchange"
    """The exchange does not exist."""
    UNKNOWN = "unknown"
    """The broker was not asked, or its answer does not tell."""


@dataclass(frozen=True, slots=True)
class Link:
    """
    A binding from an exchange by *pattern* or *headers* to *target*: a queue, or another exchange.
    """

    pattern: str
    target: str
    to_exchange: bool = False
    headers: HeaderPattern | None = None
    match: Match = "all"


@dataclass(frozen=True, slots=True)
class RoutingExchange:
    """
    An exchange as the broker has it.

    Args:
        kind: topic, direct, fanout, headers, or the kind of a plugin.
        links: Its bindings.
        alternate: The exchange for messages that match no binding.
        has_policy: Whether a policy applies to it, which may name an alternate exchange.

    """

    kind: str
    links: Sequence[Link] = ()
    alternate: str | None = None
    has_policy: bool = False


def route_states(
    exchange: str, keys: Collection[str], exchanges: Mapping[str, RoutingExchange]
) -> dict[str, RouteState]:
    """
    Return where *exchange* routes each of *keys*.

    *exchanges* holds it and each exchange that its bindings lead to, as far as they are known.
    """
    if exchange not in exchanges:
        return dict.fromkeys(keys, RouteState.NO_EXCHANGE)
    return {key: _state(exchange, key, exchanges, frozenset()) for key in keys}


def next_exchanges(exchange: RoutingExchange) -> list[str]:
    """Return the names of the exchanges that *exchange* may pass a message on to."""
    names = [link.target for link in exchange.links if link.to_exchange]
    return [*names, exchange.alternate] if exchange.alternate else names


def _state(
    name: str, key: str, exchanges: Mapping[str, RoutingExchange], seen: frozenset[str]
) -> RouteState:
    """Where the exchange *name* routes *key*, unless it has been *seen* on the way."""
    if name in seen:
        return RouteState.NO_QUEUE
    exchange = exchanges.get(name)
    if exchange is None or (exchange.links and exchange.kind not in KINDS):
        return RouteState.UNKNOWN
    further = frozenset({*seen, name})

    def end(link: Link) -> RouteState:
        if not link.to_exchange:
            return RouteState.BOUND
        return _state(link.target, key, exchanges, further)

    ends = [end(link) for link in exchange.links if _is_match(exchange.kind, link, key)]
    if ends:
        return _best(ends)
    unmatched = [RouteState.UNKNOWN] if exchange.has_policy else []
    if exchange.alternate:
        unmatched.append(_state(exchange.alternate, key, exchanges, further))
    if exchange.kind != "headers":
        return _best(unmatched)
    # Each binding may take the message, or none of them does.
    possible = {_best(unmatched), *map(end, exchange.links)}
    return possible.pop() if len(possible) == 1 else RouteState.UNKNOWN


_BEST_FIRST = (RouteState.BOUND, RouteState.UNKNOWN)


def _best(states: Iterable[RouteState]) -> RouteState:
    found = set(states)
    return next(filter(found.__contains__, _BEST_FIRST), RouteState.NO_QUEUE)


def _is_match(kind: str, link: Link, key: str) -> bool:
    """Whether an exchange of this *kind* follows *link* for each message with *key*."""
    if kind == "headers":
        return not link.headers and link.match == "all"
    return takes(kind, link.pattern, key)
