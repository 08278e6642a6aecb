"""
The protocols that every broker adapter implements; see the packages `rabbitmq` and `sqlite`.

To add an adapter, implement these protocols and add it to `tests/contracts/test_transport.py`.

Every method raises BrokerUnavailable when the broker cannot be reached, and TopologyMismatch when
an exchange or queue is missing or differs from its declaration.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from outbox.errors import TopologyMismatch
from outbox.transports.delivery import Delivery
from outbox.transports.inspection import Act, BrokerFacts
from outbox.transports.observation import Observation
from outbox.transports.topology import Binding, Topology
from outbox.wire.codec import WireMessage
from outbox.wire.encrypted import PLAINTEXT_REFUSED


def argument_mismatch(kind: str, name: str, argument: str) -> TopologyMismatch:
    """Return the error for an exchange or queue (*kind*) that exists with another *argument*."""
    return TopologyMismatch(f"{kind} {name} exists with another {argument}", argument=argument)


def raise_together(problems: Sequence[TopologyMismatch]) -> None:
    """Raise one error with a line for each of *problems*; none if there is no problem."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise TopologyMismatch("\n".join(map(str, problems)))


class Outcome(StrEnum):
    """The outcome of one publish; its value is the reason code."""

    ACKED = "acked"
    """The broker stored the message on disk, in at least one queue."""
    RETURNED = "unroutable"
    """No queue is bound for the routing key, or the exchange is missing: no queue has it."""
    NACKED = "refused"
    """The broker refused it for now: a queue is full, or a permission is missing."""
    REJECTED = "rejected"
    """It closes the channel even when published alone; a retry cannot succeed."""
    MALFORMED = "malformed"
    """It cannot be decoded as a message, and was not published."""
    PLAIN = PLAINTEXT_REFUSED
    """MQ_REQUIRE_ENCRYPTION refuses its plain body, so it was not published."""
    EXPIRED = "expired"
    """The deadline of the request has passed, so it was not published."""
    UNKNOWN = "unknown"
    """No confirm came: the broker may have it; the relay publishes it again with the same id."""


class Publisher(Protocol):
    """A connection for publishing."""

    async def ready(self) -> None:
        """
        Return when the broker accepts publishes.

        Raises BrokerUnavailable if it does not after one attempt to connect.
        """

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        """
        Publish *messages* persistent, mandatory and confirmed; return one outcome for each.

        It returns *within* that time, unless the broker is still receiving the messages or
        confirming them one after another, and raises no error of the broker.
        Several tasks may call it at once. Message ids should be distinct: returned messages are
        matched by id, so a message waits until another one with its id is confirmed.
        """


class Subscription(Protocol):
    """
    Deliveries from one queue.

    Messages that are not settled when the subscription ends or is lost are delivered again.
    """

    async def take(self, limit: int) -> list[Delivery]:
        """
        Wait for a delivery and return up to *limit*; empty after `stop`.

        Raises BrokerUnavailable when the connection is lost.
        """

    async def raise_prefetch(self, prefetch: int) -> None:
        """Allow up to *prefetch* unsettled deliveries from now on; it never lowers the number."""

    async def stop(self) -> None:
        """
        Receive no more deliveries; those that `take` has not returned go back to the queue.

        An ordered subscription gives them back when it ends.
        """

    async def ack(self, *deliveries: Delivery) -> None:
        """Ack *deliveries*. If the ack is lost, the broker delivers them again."""

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        """
        Publish *copy*, and ack *delivery* if the outcome is ACKED.
        """

    async def release(self, delivery: Delivery) -> None:
        """Requeue the message."""


class ConnectionCounter(Protocol):
    """Counts the open connections to the broker; a Prometheus gauge is one."""

    def inc(self) -> None:
        """Count a connection that was opened."""

    def dec(self) -> None:
        """Count a connection that was closed or lost."""


class NoCounter:
    """Counts no connections."""

    def inc(self) -> None:
        return

    def dec(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """
    Number of messages and consumers of a queue.

    Args:
        messages: Ready messages; some brokers also count unsettled ones.
        consumers: Subscriptions; some brokers count one whose prefetch was raised several times.

    """

    messages: int
    consumers: int


class Transport(Protocol):
    """A broker to publish to and to consume from."""

    def publisher(self) -> AbstractAsyncContextManager[Publisher]:
        """Yield a publisher; it connects in `Publisher.ready`."""

    def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AbstractAsyncContextManager[Subscription]:
        """
        Subscribe to *queue*, with at most *prefetch* unsettled deliveries.

        An *ordered* subscription is for a queue with a single active consumer, and is active until
        it ends. Only then do all unsettled messages go back, together and in their order, and the
        next subscription gets them first. It supports neither `raise_prefetch` nor `release`.
        """

    async def declare(self, topology: Topology) -> None:
        """
        Declare *topology*; may be repeated.

        Raises TopologyMismatch with a line for each entity that has other arguments; it names one
        argument of each.
        """

    async def verify(self, topology: Topology) -> list[str]:
        """
        Check that exchanges and queues exist with the declared arguments; declare none.

        Returns the entities that exist but whose arguments this user may not compare.
        Raises TopologyMismatch with a line for each entity that is missing or differs.
        """

    async def depth(self, queue: str) -> QueueDepth | None:
        """Return the depth of *queue*, or None if it does not exist."""

    async def inspect(self, acts: Sequence[Act]) -> BrokerFacts:
        """
        Return what the broker says about itself, and its answers to attempts at *acts*.

        No attempt has an effect.
        """

    async def remove(self, topology: Topology) -> list[str]:
        """
        Remove the bindings of *topology*, then its exchanges, then those of its queues that are
        empty; what does not exist counts as removed.

        Returns the names of the queues that have messages, and stay.
        """

    def observe(
        self, bindings: Sequence[Binding], *, name: str, bodies: bool = False
    ) -> AbstractAsyncContextManager[Observation]:
        """
        Copy the messages that match *bindings* from now on; their queue is the observer's *name*.

        No copy takes a message from a queue, or makes an unroutable one routable. Bodies are
        copied only with *bodies*. Nothing of it is left after its end, however that comes.
        Raises ConfigurationError if the broker makes no such copies.
        """
