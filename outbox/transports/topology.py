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
from datetime import timedelta
from functools import cached_property
from typing import Literal, TypeAlias

Arguments: TypeAlias = dict[str, str | int]

_QUORUM: Arguments = {"x-queue-type": "quorum"}
_SAFE_DEAD_LETTERING: Arguments = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
_NO_LIMIT = 2**31 - 1
"""What a consumer takes 20 times and does not settle, RabbitMQ 4 drops from queues without one."""


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


@dataclass(frozen=True)
class ConsumerQueues:
    """
    The queues of one consumer.

    Args:
        name: Name of the work queue.
        bindings: Topic patterns, such as `health.processing.#`.
        delays: One retry queue for each.
        message_ttl: After this long in the work queue a message goes to the dead queue.
        delivery_limit: After so many redeliveries likewise.
        single_active: Only one subscription of the work queue gets messages, others stand by.

    """

    name: str
    bindings: Sequence[str]
    delays: Sequence[timedelta]
    message_ttl: timedelta | None = None
    delivery_limit: int = 20
    single_active: bool = False

    @property
    def dead(self) -> str:
        """Name of the queue for what the broker itself gives up."""
        return f"{self.name}.dead"

    def retry(self, delay: timedelta) -> str:
        """Name of the queue in which a message waits for *delay*."""
        milliseconds = delay // timedelta(milliseconds=1)
        unit = f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
        return f"{self.name}.retry.{unit}"

    @cached_property
    def retry_queues(self) -> dict[timedelta, str]:
        """The name of each retry queue by its delay."""
        return {delay: self.retry(delay) for delay in sorted(set(self.delays))}

    def topology(self, *, main_exchange: str, dlx_exchange: str) -> Topology:
        """All of this consumer's queues, with the exchanges that they are bound to."""
        base = publishing(main_exchange=main_exchange, dlx_exchange=dlx_exchange)
        return Topology(
            exchanges=base.exchanges,
            queues=[
                Queue(self.dead, {**_QUORUM, "x-delivery-limit": _NO_LIMIT}),
                *(self._retry_queue(delay) for delay in self.retry_queues),
                self.work_queue(dlx_exchange),
            ],
            bindings=[
                Binding(dlx_exchange, self.dead, self.name),
                *(Binding(main_exchange, self.name, pattern) for pattern in self.bindings),
            ],
        )

    def work_queue(self, dlx_exchange: str) -> Queue:
        """The queue that its messages are consumed from."""
        arguments: Arguments = {
            **_QUORUM,
            **_SAFE_DEAD_LETTERING,
            "x-dead-letter-exchange": dlx_exchange,
            "x-dead-letter-routing-key": self.name,
            "x-delivery-limit": self.delivery_limit,
        }
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        if self.message_ttl is not None:
            arguments["x-message-ttl"] = self.message_ttl // timedelta(milliseconds=1)
        return Queue(self.name, arguments)

    def _retry_queue(self, delay: timedelta) -> Queue:
        return Queue(
            self.retry(delay),
            {
                **_QUORUM,
                **_SAFE_DEAD_LETTERING,
                "x-message-ttl": delay // timedelta(milliseconds=1),
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.name,
            },
        )


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
