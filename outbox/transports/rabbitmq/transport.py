"""
RabbitMQ through aio-pika.

Connections are plain, not aio-pika's robust ones: a robust connection declares all entities again
and reconnects for ever if they do not match. Here a lost connection raises an error, and the next
call connects again.

Rules that the library and the protocol require:

- Channels raise returned messages, every publish is mandatory, and only `basic.ack` counts: the
  broker also acks an unroutable message, which it drops.
- aiormq matches returned messages by message id, so ids of publishes in flight on a channel
  differ.
- aiormq cancels the futures of publishes when the peer is silent: a `CancelledError` in a task
  that was not cancelled means a lost connection.
- Deliveries go into our own buffer. Handlers never run in the client's callback tasks, which it
  cancels when the channel closes.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from aio_pika import Connection
from aio_pika.abc import AbstractConnection
from yarl import URL

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import (
    ConnectionCounter,
    NoCounter,
    QueueDepth,
)
from outbox.transports.inspection import Act, BrokerFacts
from outbox.transports.rabbitmq import inspection
from outbox.transports.rabbitmq.confirm_channel import MethodName
from outbox.transports.rabbitmq.connection import close, connect, heartbeat_to_request
from outbox.transports.rabbitmq.frame_reader import FrameReadingConnection
from outbox.transports.rabbitmq.observation import RabbitMQObservation
from outbox.transports.rabbitmq.publisher import RabbitMQPublisher
from outbox.transports.rabbitmq.send_progress import MeteredConnection
from outbox.transports.rabbitmq.subscription import DeliveryMethodName, RabbitMQSubscription
from outbox.transports.rabbitmq.topology import (
    DeclarationChannel,
    NoPermission,
    compare,
    declare,
    describe,
    for_each,
    missing_end,
)
from outbox.transports.rabbitmq.topology_removal import remove
from outbox.transports.topology import Binding, Topology


class RabbitMQTransport:
    """
    The broker behind one of *urls*, tried in their order.

    Args:
        heartbeat_seconds: A silent peer is detected within three of these.
        name: The connection's name in the management interface.
        connections: Counts the open connections of this transport.
        publish_method: How several messages are published at once.
        delivery_method: How deliveries are read.

    """

    def __init__(
        self,
        urls: Sequence[URL],
        *,
        heartbeat_seconds: int,
        name: str,
        connections: ConnectionCounter | None = None,
        publish_method: MethodName = "batch",
        delivery_method: DeliveryMethodName = "frames",
    ) -> None:
        heartbeat = str(heartbeat_to_request(heartbeat_seconds))
        self._urls = [url.update_query(heartbeat=heartbeat) for url in urls]
        self._name = name
        self._connections = connections or NoCounter()
        self._publish_method = publish_method
        self._delivery_method = delivery_method

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator["RabbitMQPublisher"]:
        connect = partial(self._connect, MeteredConnection)
        publisher = RabbitMQPublisher(connect, method=self._publish_method)
        try:
            yield publisher
        finally:
            await publisher.close()

    @asynccontextmanager
    async def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AsyncIterator["RabbitMQSubscription"]:
        method = self._delivery_method
        kind = FrameReadingConnection if method == "frames" else Connection
        connection = await self._connect(kind)
        try:
            async with self.publisher() as publisher:
                subscription = RabbitMQSubscription(
                    connection, publisher, queue, method=method, ordered=ordered
                )
                await subscription.start(prefetch)
                try:
                    yield subscription
                finally:
                    await subscription.close()
        finally:
            await close(connection)

    async def declare(self, topology: Topology) -> None:
        connection = await self._connect()
        try:
            channel = DeclarationChannel(connection)
            await for_each(topology, partial(declare, channel))
            for binding in topology.bindings:
                async with channel.of(missing_end(binding)) as opened:
                    await opened.queue_bind(
                        binding.queue,
                        binding.exchange,
                        binding.pattern,
                        arguments=binding.arguments,
                    )
            for each in topology.exchange_bindings:
                async with channel.of(missing_end(each)) as opened:
                    await opened.exchange_bind(
                        destination=each.destination,
                        source=each.source,
                        routing_key=each.pattern,
                        arguments=each.arguments,
                    )
        finally:
            await close(connection)

    async def verify(self, topology: Topology) -> list[str]:
        connection = await self._connect()
        try:
            compared = await for_each(topology, partial(compare, DeclarationChannel(connection)))
            return [describe(entity) for entity, is_compared in compared if not is_compared]
        finally:
            await close(connection)

    async def depth(self, queue: str) -> QueueDepth | None:
        connection = await self._connect()
        try:
            async with DeclarationChannel(connection).of(f"queue {queue}") as channel:
                found = await channel.queue_declare(queue, passive=True)
                return QueueDepth(found.message_count or 0, found.consumer_count or 0)
        except NoPermission as error:
            # From RabbitMQ 4.3 on, for a user without any permission on the queue.
            raise BrokerUnavailable(str(error), refused=True) from None
        except TopologyMismatch:
            return None
        finally:
            await close(connection)

    async def inspect(self, acts: Sequence[Act]) -> BrokerFacts:
        connection = await self._connect()
        try:
            return await inspection.inspect(connection, acts)
        finally:
            await close(connection)

    async def remove(self, topology: Topology) -> list[str]:
        connection = await self._connect()
        try:
            return await remove(DeclarationChannel(connection), topology)
        finally:
            await close(connection)

    @asynccontextmanager
    async def observe(
        self, bindings: Sequence[Binding], *, name: str, bodies: bool = False
    ) -> AsyncIterator["RabbitMQObservation"]:
        connection = await self._connect(FrameReadingConnection)
        try:
            observation = RabbitMQObservation(connection, bindings, name=name, bodies=bodies)
            await observation.start()
            yield observation
        finally:
            await close(connection)

    async def _connect(self, kind: type[Connection] = Connection) -> AbstractConnection:
        return await connect(self._urls, name=self._name, connections=self._connections, kind=kind)
