"""
Exchanges, queues and bindings as values; the transports declare them.

    main exchange (topic) ──pattern──▶ <queue> ──▶ consumer
                                         │  ▲
            copy after a failed attempt  │  │ TTL expires: default exchange, straight back
                                         ▼  │
                                  <queue>.retry.<delay>
    <queue> ──broker dead-letters──▶ dead-letter exchange (direct) ──▶ <queue>.dead

A retry returns to the queue of its own consumer only, because it bypasses the main exchange.

Every queue is a quorum queue. Messages move from queue to queue only by dead-lettering with the
strategy at-least-once, which needs overflow reject-publish; the default strategy may lose messages
(rabbitmq.com/docs/quorum-queues#dead-lettering, RabbitMQ 3.10 and newer).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Arguments: TypeAlias = dict[str, str | int]
HeaderPattern: TypeAlias = Mapping[str, str | int | None]
"""Headers that a binding asks for, with their values; None asks for any value."""
BindingArguments: TypeAlias = dict[str, str | int | None]
Match: TypeAlias = Literal["all", "any"]
"""Whether a message has to have all headers of a binding, or one of them."""

Kind: TypeAlias = Literal[
    "topic", "direct", "fanout", "headers", "x-consistent-hash", "x-modulus-hash"
]

NO_DELIVERY_LIMIT = 2**31 - 1
"""The argument x-delivery-limit for no limit: without one RabbitMQ 4 has a limit of 20."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    A durable exchange.

    *alternate* is the exchange that gets the messages that no binding takes; *arguments* are
    further declaration arguments.
    """

    name: str
    kind: Kind
    alternate: str | None = None
    arguments: Arguments = field(default_factory=dict)

    @property
    def declared_arguments(self) -> Arguments:
        """The arguments of its declaration."""
        alternate: Arguments = {"alternate-exchange": self.alternate} if self.alternate else {}
        return {**alternate, **self.arguments}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue with its declaration arguments."""

    name: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """
    *queue* receives messages of *exchange* that match *pattern* or *headers*, by its kind.

    A topic exchange compares words, a direct one the whole routing key, a headers exchange the
    headers; a fanout exchange passes every message on.
    """

    exchange: str
    queue: str
    pattern: str
    headers: HeaderPattern | None = None
    match: Match = "all"

    def __hash__(self) -> int:
        return hash((self.exchange, self.queue, self.pattern))

    def __str__(self) -> str:
        return (
            f"queue {self.queue} is not bound to exchange {self.exchange} by "
            f"{by(self.pattern, self.headers)}"
        )

    @property
    def arguments(self) -> BindingArguments:
        """The arguments of the binding."""
        return binding_arguments(self.headers, self.match)


@dataclass(frozen=True, slots=True)
class ExchangeBinding:
    """
    The exchange *destination* receives messages of *source* that match *pattern* or *headers*.
    """

    source: str
    destination: str
    pattern: str
    headers: HeaderPattern | None = None
    match: Match = "all"

    def __hash__(self) -> int:
        return hash((self.source, self.destination, self.pattern))

    def __str__(self) -> str:
        return (
            f"exchange {self.destination} is not bound to exchange {self.source} by "
            f"{by(self.pattern, self.headers)}"
        )

    @property
    def arguments(self) -> BindingArguments:
        """The arguments of the binding."""
        return binding_arguments(self.headers, self.match)


def by(pattern: str, headers: HeaderPattern | None) -> str:
    """Return how a binding chooses messages, in words; the values of headers are left out."""
    return f"the headers {', '.join(sorted(headers))}" if headers else pattern or "no routing key"


def binding_arguments(headers: HeaderPattern | None, match: Match) -> BindingArguments:
    """Return the arguments of a binding; names that begin with `x-` count only if it says so."""
    if not headers:
        return {}
    with_x = any(name.startswith("x-") for name in headers)
    return {"x-match": f"{match}-with-x" if with_x else match, **headers}


def asked_headers(arguments: Mapping[str, Any]) -> tuple[HeaderPattern | None, Match]:
    """Return the headers and the match that the *arguments* of a binding ask for."""
    headers = {name: value for name, value in arguments.items() if name != "x-match"}
    is_any = str(arguments.get("x-match", "all")).startswith("any")
    return headers or None, "any" if is_any else "all"


@dataclass(frozen=True, slots=True)
class Topology:
    """The exchanges, queues and bindings that a process needs."""

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    bindings: Sequence[Binding] = ()
    exchange_bindings: Sequence[ExchangeBinding] = ()

    @property
    def all_bindings(self) -> list[Binding | ExchangeBinding]:
        """The bindings of queues, then those of exchanges."""
        return [*self.bindings, *self.exchange_bindings]


def publishing(*, main_exchange: str, dlx_exchange: str) -> Topology:
    """Return the exchange that the relay publishes to and the one that queues dead-letter to."""
    return Topology([Exchange(main_exchange, "topic"), Exchange(dlx_exchange, "direct")])


def matches(pattern: str, routing_key: str) -> bool:
    """
    Return whether a topic *pattern* matches *routing_key*: `*` is one word, `#` zero or more.

    As AMQP 0-9-1 defines it (specification, section 3.1.3.3).
    """
    # An empty routing key has no words, not one empty word.
    words = f".{routing_key}" if routing_key else ""
    return _compiled(pattern).fullmatch(words) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    # Each word includes the dot before it, so that `#` can match no word and no dot.
    words = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile(
        "".join(words.get(word, r"\." + re.escape(word)) for word in pattern.split("."))
    )
