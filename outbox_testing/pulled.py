"""
The work queue of a consumer and its retry queues, in the time of the test.

The retry queues of a test have no time to live. A copy waits until the test has let its delay
pass; then it is published to the work queue, as the broker would.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from consumer.queues import ConsumerQueues
from outbox.transports.base import Outcome, Publisher
from outbox.transports.delivery import Delivery
from outbox.transports.topology import Queue, Topology
from outbox.wire.codec import WireMessage
from outbox.wire.headers import NOT_BEFORE_HEADER
from outbox_testing.brokers import PulledQueues
from outbox_testing.clock import SkippingClock

_WITHIN = timedelta(seconds=10)
_OF_TIME_AND_PROCESSES = {"x-message-ttl", "x-single-active-consumer"}
"""
Arguments that a test leaves out: it has no other process, and `basic.get` cannot read a queue with
a single active consumer.
"""


def without_time(topology: Topology) -> Topology:
    """*topology* with queues in which messages stay until they are taken."""
    return replace(topology, queues=[_without_time(queue) for queue in topology.queues])


def _without_time(queue: Queue) -> Queue:
    kept = queue.arguments.items()
    return Queue(queue.name, {k: v for k, v in kept if k not in _OF_TIME_AND_PROCESSES})


@dataclass(slots=True)
class PulledSubscription:
    """
    The subscription of a consumer whose deliveries the test takes, and its waiting copies.

    *publisher* publishes the copies.
    """

    queues: ConsumerQueues
    broker: PulledQueues
    publisher: Publisher
    clock: SkippingClock
    _due: dict[str, deque[float]] = field(default_factory=dict)

    async def take(self, limit: int) -> list[Delivery]:
        """Take up to *limit* messages; none if the queue is empty."""
        return [
            self._shifted_delivery(each)
            for each in await self.broker.pull(self.queues.name, limit)
        ]

    async def ack(self, *deliveries: Delivery) -> None:
        await self.broker.ack(self.queues.name, deliveries)

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        shifted = _shifted(copy, self.clock.skipped)
        [outcome] = await self.publisher.publish([shifted], within=_WITHIN)
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
            delay = self._delays.get(copy.routing_key, timedelta(0))
            due = self._due.setdefault(copy.routing_key, deque())
            due.append(self.clock.now() + delay.total_seconds())
        return outcome

    async def raise_prefetch(self, prefetch: int) -> None:
        """Do nothing: `take` has its limit."""

    async def stop(self) -> None:
        """Do nothing: no message comes without a `take`."""

    async def release(self, delivery: Delivery) -> None:
        """Do nothing: the queue is the test's own, and is deleted with it."""

    async def return_due(self) -> None:
        """Publish the copies whose delay has passed to the work queue, the earliest first."""
        while due := self._next_due():
            [delivery] = await self.broker.pull(due, 1)
            back = replace(delivery.message, exchange="", routing_key=self.queues.name)
            [outcome] = await self.publisher.publish([back], within=_WITHIN)
            if outcome is not Outcome.ACKED:
                raise RuntimeError(f"a retry was not published: {outcome}")
            await self.broker.ack(due, [delivery])
            self._due[due].popleft()

    def _next_due(self) -> str | None:
        """The retry queue whose first copy is due before those of the others."""
        now = self.clock.now()
        firsts: Iterable[tuple[float, str]] = (
            (due[0], queue) for queue, due in self._due.items() if due and due[0] <= now
        )
        return min(firsts, default=(now, None))[1]

    @property
    def _delays(self) -> dict[str, timedelta]:
        return {name: delay for delay, name in self.queues.retry_queues.items()}

    def _shifted_delivery(self, delivery: Delivery) -> Delivery:
        delivery.message = _shifted(delivery.message, -self.clock.skipped)
        return delivery


def _shifted(message: WireMessage, by: timedelta) -> WireMessage:
    """*message* with its header `not before`, if it has one, later *by* that time."""
    not_before = message.headers.get(NOT_BEFORE_HEADER)
    if not isinstance(not_before, str):
        return message
    moved = (datetime.fromisoformat(not_before) + by).isoformat(timespec="milliseconds")
    return replace(message, headers={**message.headers, NOT_BEFORE_HEADER: moved})
