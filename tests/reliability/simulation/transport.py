"""
The transport of `outbox.transports.base` that connects to the simulated broker.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.inspection import Act, Answer, BrokerFacts, Permission
from outbox.transports.observation import Observation
from outbox.transports.topology import Binding, Topology
from outbox.wire.codec import WireMessage
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.broker_connection import LOST, BrokerConnection
from tests.reliability.simulation.process import Process
from tests.reliability.simulation.queue import Held, Receiver

_REPLACE_WITHIN = timedelta(seconds=10)


class SimulatedTransport:
    """The transport of *process* to *broker*; without a process no fault is injected."""

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
        connection = self._broker.connect(self._process)
        publisher = SimulatedPublisher(self._broker, self._process)
        try:
            await connection.go("subscribe")
            yield SimulatedSubscription(
                self._broker, connection, publisher, queue, prefetch=prefetch, ordered=ordered
            )
        finally:
            publisher.close()
            if connection.is_open:
                # What was acked gets there before the connection is closed.
                connection.post(connection.cut)
                await connection.flushed()

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

    async def inspect(self, acts: Sequence[Act]) -> BrokerFacts:
        # No process that is simulated inspects a broker.
        answers = [Answer(act, Permission.GRANTED) for act in acts]
        return BrokerFacts(product="simulated", version="1", answers=answers)

    async def remove(self, topology: Topology) -> list[str]:
        # No process that is simulated has partitions.
        return [queue.name for queue in topology.queues]

    @asynccontextmanager
    async def observe(
        self, _bindings: Sequence[Binding], *, name: str, bodies: bool = False
    ) -> AsyncIterator[Observation]:
        # No process that is simulated observes a broker.
        raise ConfigurationError(f"{name}, {bodies=}: the simulated broker makes no copies")
        yield

    async def _ask(self, step: str) -> None:
        connection = self._broker.connect(self._process)
        try:
            await connection.go(step)
        finally:
            connection.cut()


class SimulatedPublisher:
    """Publishes on its own connection, and reconnects when that is lost."""

    def __init__(self, broker: Broker, process: Process | None) -> None:
        self._broker = broker
        self._process = process
        self._connection: BrokerConnection | None = None

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
                connection = await self._connected()
                await connection.go(step)
                outcomes = await self._broker.publish(connection, messages)
                await connection.hear(step)
        except (BrokerUnavailable, TimeoutError):
            return [Outcome.UNKNOWN] * len(messages)
        return outcomes

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.cut()

    async def _connected(self) -> BrokerConnection:
        if self._connection is None or not self._connection.is_open:
            self._connection = connection = self._broker.connect(self._process)
            await connection.go("connect")
        return self._connection


class SimulatedSubscription:
    """Deliveries of one queue on *connection*; *publisher* publishes copies."""

    def __init__(
        self,
        broker: Broker,
        connection: BrokerConnection,
        publisher: SimulatedPublisher,
        queue: str,
        *,
        prefetch: int,
        ordered: bool,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._ordered = ordered
        self._queue = broker.queue(queue)
        self._receiver = Receiver(self._deliver, prefetch)
        self._buffer = DeliveryBuffer()
        self._given: set[int] = set()
        connection.at_end += [
            lambda: self._buffer.fail(LOST),
            lambda: self._queue.leave(self._receiver),
        ]
        self._queue.receivers.append(self._receiver)
        self._queue.dispatch()

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self._buffer.take(limit)
        if taken:
            self._connection.passing("deliver.answered")
        self._given.update(delivery.tag for delivery in taken)
        return taken

    async def raise_prefetch(self, prefetch: int) -> None:
        if self._buffer.ended:
            return
        await self._connection.go("widen")
        self._receiver.capacity = max(self._receiver.capacity, prefetch)
        self._queue.dispatch()

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        if self._ordered:
            return
        await self._connection.go("cancel")
        self._receiver.capacity = 0
        left = sorted(set(self._receiver.unsettled) - self._given)
        self._queue.give_back(self._receiver, left)

    async def ack(self, *deliveries: Delivery) -> None:
        if deliveries:
            places = [delivery.tag for delivery in deliveries]
            self._connection.passing("ack.sent")
            self._connection.post(lambda: self._queue.ack(self._receiver, places), "ack")

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        self._connection.check()
        [outcome] = await self._publisher.publish([copy], within=_REPLACE_WITHIN, step="copy")
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        position = delivery.tag
        self._connection.passing("release.sent")
        self._connection.post(lambda: self._queue.give_back(self._receiver, [position]), "release")

    def _deliver(self, held: Held) -> None:
        headers = held.message.headers
        if held.failures:
            headers = MappingProxyType({**headers, "x-delivery-count": held.failures})
        delivery = Delivery(
            replace(held.message, headers=headers), held.position, redelivered=held.redelivered
        )
        self._connection.deliver(lambda: self._buffer.put([delivery]))
