"""
What a process does with the broker, and what the broker answers to an attempt that has no effect.

`Transport.inspect` makes the attempts. No message reaches a queue or leaves one, and no exchange,
queue or binding changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from outbox.transports.redis_facts import RedisFacts
from outbox.transports.topology import Binding


@dataclass(frozen=True, slots=True)
class Publishing:
    """
    Publishes to *exchange*.

    Args:
        exchange: Its name; empty for the default exchange, which routes to queues by their names.
        routing_keys: Keys of messages that will be published; others are possible as well.

    """

    exchange: str
    routing_keys: Sequence[str] = ()

    def __str__(self) -> str:
        return f"publish to {exchange_text(self.exchange)}"


@dataclass(frozen=True, slots=True)
class Consuming:
    """Consumes from *queue*."""

    queue: str

    def __str__(self) -> str:
        return f"consume from queue {self.queue}"


@dataclass(frozen=True, slots=True)
class BindingOf:
    """Binds *queue* to *exchange*."""

    exchange: str
    queue: str

    def __str__(self) -> str:
        return f"bind queue {self.queue} to {exchange_text(self.exchange)}"


Act = Publishing | Consuming | BindingOf


class Permission(StrEnum):
    """What the broker answers to an attempt."""

    GRANTED = "granted"
    REFUSED = "refused"
    """The user may not do it."""
    REFUSED_BY_KEY = "refused_by_key"
    """A topic permission of the user does not allow the routing key."""
    BLOCKED = "blocked"
    """The broker takes no message, so it has not answered."""
    MISSING = "missing"
    """The exchange or queue does not exist."""
    UNKNOWN = "unknown"
    """The answer does not tell."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The broker's answer to an attempt at *act*.

    Args:
        act: The attempt.
        permission: The answer.
        routing_key: The key that was tried; None for a key that no message has.

    """

    act: Act
    permission: Permission
    routing_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """
    One broker.

    Args:
        product: Its name.
        version: Its version as it writes it.
        is_encrypted: Whether the connection from here uses TLS.
        is_blocked: Whether it takes no messages since memory or disk is low; None if no message
            was offered.
        answers: Its answers, in the order of the attempts.
        redis: What else a server of Redis says; None for other brokers.

    """

    product: str
    version: str
    is_encrypted: bool = False
    is_blocked: bool | None = None
    answers: Sequence[Answer] = ()
    redis: RedisFacts | None = None


def acts_of_bindings(bindings: Sequence[Binding]) -> list[BindingOf]:
    """Return an act for each pair of a queue and an exchange in *bindings*."""
    return list(dict.fromkeys(BindingOf(each.exchange, each.queue) for each in bindings))


def exchange_text(name: str) -> str:
    """Return how messages call the exchange *name*, which is empty for the default one."""
    return f"exchange {name}" if name else "the default exchange"
