"""
Names and arguments of exchanges and queues: pure values, declared by the transports.

    main exchange (topic) ──pattern──▶ <queue> ──▶ consumer
                                         │  ▲
            copy after a failed attempt  │  │ TTL over: default exchange, straight back
                                         ▼  │
                                  <queue>.retry.<delay>
    <queue> ──broker gives up──▶ dead-letter exchange (direct) ──▶ <queue>.dead

A retry comes back to its own consumer's queue and to no other: it never passes the main exchange.

Every queue is a quorum queue, and every way from queue to queue is dead-lettering with the
strategy at-least-once, which needs overflow reject-publish; the default strategy may lose messages
(rabbitmq.com/docs/quorum-queues#dead-lettering, RabbitMQ 3.10 and newer).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Arguments: TypeAlias = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "direct"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue with its declaration arguments."""

    name: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """*queue* receives what is published to *exchange* with a routing key that fits *pattern*."""

    exchange: str
    queue: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that has to exist in the broker before a process can run."""

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    bindings: Sequence[Binding] = ()


def publishing(*, main_exchange: str, dlx_exchange: str) -> Topology:
    """What the relay publishes to, and where queues dead-letter to."""
    return Topology([Exchange(main_exchange, "topic"), Exchange(dlx_exchange, "direct")])


def matches(pattern: str, routing_key: str) -> bool:
    """
    Whether a topic *pattern* fits *routing_key*: `*` is one word, `#` is any number, even none.

    As AMQP 0-9-1 defines it (specification, section 3.1.3.3).
    """
    # An empty routing key has no words, rather than one that is empty.
    words = f".{routing_key}" if routing_key else ""
    return _compiled(pattern).fullmatch(words) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    # Each word carries the dot before it, so that `#` may match no word and no dot.
    words = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile(
        "".join(words.get(word, r"\." + re.escape(word)) for word in pattern.split("."))
    )
