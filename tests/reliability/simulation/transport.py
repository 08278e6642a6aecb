"""
The transport of `outbox.transports.base` that leads to the simulated broker.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.topology import Topology
from outbox.wire.codec import WireMessage
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.line import LOST, Line
from tests.reliability.simulation.process import Process
from tests.reliability.simulation.queue import Held, Receiver

_REPLACE_WITHIN = timedelta(seconds=10)


class SimulatedTransport:
    """What *process* sees of *broker*; nothing strikes whoever is no process."""

    def __init__(self, broker: Broker, process: Process | None = None) -> None:
        self._broker = broker
        self._process = process

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator["SimulatedPublisher"]:
        publisher = SimulatedPublisher(self._broker, self._process)
        try:
            yield publisher
        finally:
            publisher.close()

    @asynccontextmanager
    async def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AsyncIterator["SimulatedSubscription"]:
        line = self._broker.connect(self._process)
        publisher = SimulatedPublisher(self._broker, self._process)
        try:
            await line.go("subscribe")
            yield SimulatedSubscription(
                self._broker, line, publisher, queue, prefetch=prefetch, ordered=ordered
            )
        finally:
            publisher.close()
            if line.is_open:
                # What was acked gets there before the connection is closed.
                line.post(line.cut)
                await line.flushed()

    async def declare(self, topology: Topology) -> None:
        await self._ask("declare")
        self._broker.declare(topology)

    async def verify(self, topology: Topology) -> list[str]:
        await self._ask("verify")
        self._broker.verify(topology)
        return []

    async def depth(self, queue: str) -> QueueDepth | None:
        await self._ask("depth")
        return self._broker.depth(queue)

    async def _ask(self, step: str) -> None:
        line = self._broker.connect(self._process)
        try:
            await line.go(step)
        finally:
            line.cut()


class SimulatedPublisher:
    """Publishes on a connection of its own, which it opens again when it is lost."""

    def __init__(self, broker: Broker, process: Process | None) -> None:
        self._broker = broker
        self._process = process
        self._line: Line | None = None

    async def ready(self) -> None:
        await self._connected()
        if self._broker.is_blocked:
            raise BrokerUnavailable("the broker blocks publishers")

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta, step: str = "publish"
    ) -> list[Outcome]:
        if not messages:
            return []
        try:
            async with asyncio.timeout(within.total_seconds()):
                line = await self._connected()
                await line.go(step)
                outcomes = await self._broker.publish(line, messages)
                await line.hear(step)
        except (BrokerUnavailable, TimeoutError):
            return [Outcome.UNKNOWN] * len(messages)
        return outcomes

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.cut()

    async def _connected(self) -> Line:
        if self._line is None or not self._line.is_open:
            self._line = line = self._broker.connect(self._process)
            await line.go("connect")
        return self._line


class SimulatedSubscription:
    """Deliveries of one queue, on *line*; copies go through *publisher*."""

    def __init__(
        self,
        broker: Broker,
        line: Line,
        publisher: SimulatedPublisher,
        queue: str,
        *,
        prefetch: int,
        ordered: bool,
    ) -> None:
        self._line = line
        self._publisher = publisher
        self._ordered = ordered
        self._queue = broker.queue(queue)
        self._receiver = Receiver(self._deliver, prefetch)
        self._buffer = DeliveryBuffer()
        self._given: set[int] = set()
        line.at_end += [
            lambda: self._buffer.fail(LOST),
            lambda: self._queue.leave(self._receiver),
        ]
        self._queue.receivers.append(self._receiver)
        self._queue.dispatch()

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self._buffer.take(limit)
        if taken:
            self._line.passing("deliver.answered")
        self._given.update(delivery.tag for delivery in taken)
        return taken

    async def raise_prefetch(self, prefetch: int) -> None:
        if self._buffer.ended:
            return
        await self._line.go("widen")
        self._receiver.capacity = max(self._receiver.capacity, prefetch)
        self._queue.dispatch()

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        if self._ordered:
            return
        await self._line.go("cancel")
        self._receiver.capacity = 0
        left = sorted(set(self._receiver.unsettled) - self._given)
        self._queue.give_back(self._receiver, left, counted=False)

    async def ack(self, *deliveries: Delivery) -> None:
        if deliveries:
            places = [delivery.tag for delivery in deliveries]
            self._line.passing("ack.sent")
            self._line.post(lambda: self._queue.ack(self._receiver, places), "ack")

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        self._line.check()
        [outcome] = await self._publisher.publish([copy], within=_REPLACE_WITHIN, step="copy")
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        place = delivery.tag
        self._line.passing("release.sent")
        self._line.post(
            lambda: self._queue.give_back(self._receiver, [place], counted=True), "release"
        )

    def _deliver(self, held: Held) -> None:
        headers = held.message.headers
        if held.failures:
            headers = MappingProxyType({**headers, "x-delivery-count": held.failures})
        delivery = Delivery(
            replace(held.message, headers=headers), held.place, redelivered=held.redelivered
        )
        self._line.deliver(lambda: self._buffer.put([delivery]))
