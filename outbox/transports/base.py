"""
What a broker is to this project. Implementations: `rabbitmq.py`, `sqlite.py`.

To add one, implement these protocols and run `tests/contracts/test_transport.py` on it.

Every method raises BrokerUnavailable when the broker cannot be reached. What is missing there, or
is not what was declared, is a TopologyMismatch.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from outbox.errors import TopologyMismatch
from outbox.transports.delivery import Delivery
from outbox.transports.topology import Topology
from outbox.wire.codec import WireMessage


def argument_mismatch(kind: str, name: str, argument: str) -> TopologyMismatch:
    """The error for a *kind* of thing that exists with another *argument* than the declared."""
    return TopologyMismatch(f"{kind} {name} exists with another {argument}", argument=argument)


class Outcome(StrEnum):
    """What became of one published message; the value is its reason code."""

    ACKED = "acked"
    """The broker has it on disk, in at least one queue."""
    RETURNED = "unroutable"
    """No queue is bound to its routing key, or the exchange is missing: nobody has it."""
    NACKED = "refused"
    """The broker refused it for now: a queue is full, or a permission is missing."""
    REJECTED = "rejected"
    """It closes the channel even when published alone; trying again changes nothing."""
    MALFORMED = "malformed"
    """It is no message at all, so it was not even tried."""
    UNKNOWN = "unknown"
    """No answer came: the broker may have it. Publish it again with the same message id."""


class Publisher(Protocol):
    """A connection that publishes."""

    async def ready(self) -> None:
        """
        Return once the broker takes publishes.

        Raises BrokerUnavailable when it does not after one attempt to connect.
        """

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        """
        Publish *messages* persistent, mandatory and confirmed; one outcome for each.

        Never raises for what the broker does, and returns when *within* is over at the latest.
        May be called by several tasks at once. The message ids of a call should be distinct:
        brokers attribute returned messages by them, so one waits for another of the same id.
        """


class Subscription(Protocol):
    """
    Deliveries from one queue.

    What is not settled when the subscription ends, in whatever way, is delivered again.
    """

    async def take(self, limit: int) -> list[Delivery]:
        """
        Up to *limit* deliveries, as soon as there is one; empty after `stop`.

        Raises BrokerUnavailable when the connection is lost.
        """

    async def raise_prefetch(self, prefetch: int) -> None:
        """Have up to *prefetch* unsettled from now on, and never fewer than before."""

    async def stop(self) -> None:
        """
        Take no more deliveries; those that `take` has not given out go back to the queue.

        Of an ordered subscription they do so when it ends.
        """

    async def ack(self, *deliveries: Delivery) -> None:
        """They are done with. If this is lost, they come again."""

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        """
        Publish *copy* and, once the broker has it, settle *delivery*.

        The delivery is settled only if the outcome is ACKED.
        """

    async def release(self, delivery: Delivery) -> None:
        """Put the message back into the queue."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """
    What a queue holds.

    Args:
        messages: Those that wait for a consumer; some brokers also count those that are with one.
        consumers: Subscriptions of the queue; some brokers count one that was widened as several.

    """

    messages: int
    consumers: int


class Transport(Protocol):
    """A broker that can be published to and consumed from."""

    def publisher(self) -> AbstractAsyncContextManager[Publisher]:
        """A publisher; connecting is left to `Publisher.ready`."""

    def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AbstractAsyncContextManager[Subscription]:
        """
        Deliveries of *queue*, at most *prefetch* unsettled at a time.

        An *ordered* subscription, of a queue with a single active consumer, keeps the queue until
        it ends. Only then does everything unsettled go back, at once and in its order, and the
        next subscription gets that first. It can neither be widened nor release what it has.
        """

    async def declare(self, topology: Topology) -> None:
        """
        Make *topology* exist. Safe to repeat.

        Raises TopologyMismatch if something exists with other arguments, of which it names one.
        """

    async def verify(self, topology: Topology) -> list[str]:
        """
        Check that exchanges and queues exist with these arguments, without changing anything.

        Returns those that exist, and whose arguments this user may not compare.
        Raises TopologyMismatch, which names the first that does not fit, and what of it.
        """

    async def depth(self, queue: str) -> QueueDepth | None:
        """What *queue* holds, or None if it does not exist."""
