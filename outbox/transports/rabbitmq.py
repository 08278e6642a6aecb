"""
RabbitMQ through aio-pika.

Connections are plain, not aio-pika's robust ones: those declare again what they remember, and
reconnect for ever when it does not fit. Here a lost connection is an error that the caller sees,
and the next call connects anew.

Rules that the library and the protocol ask for:

- Channels raise returned messages, every publish is mandatory, and only `basic.ack` counts: the
  broker also acks what it has dropped for want of a queue.
- aiormq attributes returns by message id, so no two publishes in flight on a channel share one.
- A silent peer makes aiormq cancel the futures of publishes: a `CancelledError` in a task that
  nobody cancelled is a lost connection.
- Deliveries are taken from aiormq's channel and put into a queue of ours. Handlers never run in
  the client's callback tasks, which it cancels when the channel dies.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from outbox.codec import APP_ID, WireMessage, retried
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.topology import ConsumerQueues, Topology
from outbox.transports.base import Delivery, Outcome, QueueDepth

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
"""Every call at shutdown has a deadline: a silent broker must not hold the process."""

_PERSISTENT = 2

_Answer: TypeAlias = Basic.Ack | Basic.Nack | Basic.Reject | BaseException | None


# What says that a message, and not the network, ended the channel. Publishes that are written to a
# channel after the broker has closed it end the connection too, as an error of the protocol.
_CULPRIT_SHOWN = (
    aiormq.exceptions.ChannelClosed,
    aiormq.exceptions.ConnectionChannelError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
)
_ANSWERED = (
    Basic.Ack,
    Basic.Nack,
    Basic.Reject,
    aiormq.exceptions.PublishError,
    aiormq.exceptions.DeliveryError,
    TypeError,
    ValueError,
)


class RabbitMQTransport:
    """
    The broker behind one of *urls*, tried in their order.

    Args:
        name: What the management interface shows as the connection's name.

    """

    def __init__(self, urls: Sequence[URL], *, heartbeat_seconds: int, name: str) -> None:
        self._urls = [url.update_query(heartbeat=str(heartbeat_seconds)) for url in urls]
        self._name = name

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator["RabbitMQPublisher"]:
        publisher = RabbitMQPublisher(self.connect)
        try:
            yield publisher
        finally:
            await publisher.close()

    @asynccontextmanager
    async def subscribe(
        self, queues: ConsumerQueues, *, prefetch: int
    ) -> AsyncIterator["RabbitMQSubscription"]:
        connection = await self.connect()
        try:
            async with self.publisher() as publisher:
                subscription = RabbitMQSubscription(connection, publisher, queues)
                await subscription.start(prefetch)
                yield subscription
        finally:
            await _close(connection)

    async def declare(self, topology: Topology) -> None:
        connection = await self.connect()
        try:
            for exchange in topology.exchanges:
                async with _declaring(connection, "exchange", exchange.name) as channel:
                    await channel.exchange_declare(
                        exchange.name, exchange_type=exchange.kind, durable=True
                    )
            for queue in topology.queues:
                async with _declaring(connection, "queue", queue.name) as channel:
                    await channel.queue_declare(
                        queue.name, durable=True, arguments=dict(queue.arguments)
                    )
            for binding in topology.bindings:
                async with _declaring(connection, "binding of queue", binding.queue) as channel:
                    await channel.queue_bind(binding.queue, binding.exchange, binding.pattern)
        finally:
            await _close(connection)

    async def verify(self, topology: Topology) -> None:
        connection = await self.connect()
        try:
            for exchange in topology.exchanges:
                async with _declaring(connection, "exchange", exchange.name) as channel:
                    await channel.exchange_declare(exchange.name, passive=True)
            for queue in topology.queues:
                async with _declaring(connection, "queue", queue.name) as channel:
                    await channel.queue_declare(queue.name, passive=True)
        finally:
            await _close(connection)

    async def depth(self, queue: str) -> QueueDepth | None:
        connection = await self.connect()
        try:
            async with _declaring(connection, "queue", queue) as channel:
                found = await channel.queue_declare(queue, passive=True)
                return QueueDepth(found.message_count or 0, found.consumer_count or 0)
        except TopologyMismatch:
            return None
        finally:
            await _close(connection)

    async def connect(self) -> AbstractConnection:
        """A new connection to the first broker that answers."""
        problem = "no address"
        for url in self._urls:
            try:
                return await aio_pika.connect(
                    url,
                    timeout=CONNECT_SECONDS,
                    client_properties={"connection_name": self._name},
                    ssl_context=ssl.create_default_context() if _verified(url) else None,
                )
            except (OSError, TimeoutError, aiormq.AMQPError) as error:
                # Their texts may quote the URL with its password.
                problem = type(error).__name__
            except asyncio.CancelledError:
                _raise_if_cancelled()
                problem = "ConnectionLost"
        raise BrokerUnavailable(f"cannot connect to the broker: {problem}")


class RabbitMQPublisher:
    """Publishes on one channel of its own connection, which is replaced when it is lost."""

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._connect = connect
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def ready(self) -> None:
        await self._open()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + within.total_seconds()
        answers = await self._publish_together(messages, deadline)
        if len(messages) > 1 and any(isinstance(answer, _CULPRIT_SHOWN) for answer in answers):
            # One message closed the channel and took its neighbours with it, perhaps with the
            # whole connection. Alone, each shows what is the matter with it.
            await self.close()
            for index, answer in enumerate(answers):
                if not isinstance(answer, _ANSWERED):
                    alone = await self._publish_together([messages[index]], deadline)
                    answers[index] = alone[0]
        return [_outcome(answer) for answer in answers]

    async def close(self) -> None:
        """Close the connection; safe to call at any time."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await _close(connection)

    async def _publish_together(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[_Answer]:
        try:
            async with asyncio.timeout_at(deadline):
                channel = await (await self._open()).get_underlay_channel()
        except (BrokerUnavailable, TimeoutError, aiormq.AMQPError) as error:
            return [error] * len(messages)
        answers = await asyncio.gather(
            *(_publish_one(channel, message, deadline) for message in messages),
            return_exceptions=True,
        )
        return list(answers)

    async def _open(self) -> AbstractChannel:
        if self._connection is None or self._connection.is_closed:
            await self.close()
            self._connection = await self._connect()
        if self._channel is None or self._channel.is_closed:
            try:
                self._channel = await self._connection.channel(
                    publisher_confirms=True, on_return_raises=True
                )
            except (OSError, TimeoutError, aiormq.AMQPError, RuntimeError) as error:
                # RuntimeError: aio-pika finds out only now that the connection was closed.
                await self.close()
                raise BrokerUnavailable(f"no channel: {type(error).__name__}") from None
        return self._channel


class RabbitMQSubscription:
    """Deliveries of one queue, on a connection of its own; retries go through *publisher*."""

    _RETRY_WITHIN = timedelta(seconds=10)

    def __init__(
        self,
        connection: AbstractConnection,
        publisher: RabbitMQPublisher,
        queues: ConsumerQueues,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._queues = queues
        self._channel: Any = None
        self._consumer_tag: str | None = None
        self._inbox: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._stopped = False
        self._lost = False

    async def start(self, prefetch: int) -> None:
        """
        Begin to receive.

        Raises TopologyMismatch if the queue does not exist.
        """
        name = self._queues.name
        try:
            channel = await self._connection.channel(publisher_confirms=False)
            self._channel = await channel.get_underlay_channel()
            self._channel.closing.add_done_callback(self._on_end)
            # The broker cancels a consumer whose queue is deleted, or has another leader.
            self._channel.on_consumer_cancel_callbacks.add(self._on_end)
            await self._channel.basic_qos(prefetch_count=prefetch)
            consuming = await self._channel.basic_consume(name, self._on_delivery)
        except aiormq.exceptions.ChannelNotFoundEntity:
            raise TopologyMismatch(f"queue {name} does not exist") from None
        except (OSError, TimeoutError, aiormq.AMQPError) as error:
            raise BrokerUnavailable(f"cannot consume: {type(error).__name__}") from None
        self._consumer_tag = consuming.consumer_tag

    async def next(self) -> Delivery | None:
        delivery = None if self._stopped else await self._inbox.get()
        if delivery is not None and not self._stopped:
            return delivery
        self._inbox.put_nowait(None)
        if self._lost:
            raise BrokerUnavailable("the connection was lost")
        return None

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with suppress(OSError, TimeoutError, aiormq.AMQPError):
            await self._channel.basic_cancel(self._consumer_tag, timeout=CLOSE_SECONDS)
        while not self._inbox.empty():
            delivery = self._inbox.get_nowait()
            if delivery is not None:
                await self.release(delivery)
        self._inbox.put_nowait(None)

    async def ack(self, delivery: Delivery) -> None:
        with _connection_errors():
            await self._channel.basic_ack(delivery.tag)

    async def retry(self, delivery: Delivery, *, attempt: int, delay: timedelta) -> Outcome:
        if delay not in self._queues.retry_queues:
            raise ValueError("delay is not one of the queue's")
        copy = retried(delivery.message, queue=self._queues.retry_queues[delay], attempt=attempt)
        outcome = (await self._publisher.publish([copy], within=self._RETRY_WITHIN))[0]
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        with _connection_errors():
            await self._channel.basic_nack(delivery.tag, requeue=True)

    async def _on_delivery(self, delivered: DeliveredMessage) -> None:
        self._inbox.put_nowait(_to_delivery(delivered))

    def _on_end(self, _cause: Any) -> None:
        # What is still here will come again; nobody could ack it now.
        self._lost = True
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)


async def _publish_one(channel: Any, message: WireMessage, deadline: float) -> _Answer:
    async with asyncio.timeout_at(deadline):
        answer: _Answer = await channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=_properties(message),
            mandatory=True,
        )
        return answer


def _outcome(answer: _Answer) -> Outcome:
    """What the broker's *answer*, or the error in its place, means for the message."""
    errors = aiormq.exceptions
    match answer:
        case Basic.Ack():
            return Outcome.ACKED
        case errors.PublishError() | errors.ChannelNotFoundEntity():
            # Returned, or its exchange is missing: both heal when the topology does.
            return Outcome.RETURNED
        case (
            Basic.Nack() | Basic.Reject() | errors.DeliveryError() | errors.ChannelAccessRefused()
        ):
            return Outcome.NACKED
        case errors.ChannelClosed() | TypeError() | ValueError():
            # The broker refuses it for good, or the client cannot write it.
            return Outcome.REJECTED
        case _:
            # No time left, connection lost, or the stray cancellation of a silent peer.
            return Outcome.UNKNOWN


def _properties(message: WireMessage) -> Basic.Properties:
    return Basic.Properties(
        message_id=message.message_id,
        message_type=message.type,
        correlation_id=message.correlation_id,
        timestamp=message.timestamp,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        priority=message.priority,
        headers=dict(message.headers),
        delivery_mode=_PERSISTENT,
        app_id=APP_ID,
    )


def _to_delivery(delivered: DeliveredMessage) -> Delivery:
    properties = delivered.header.properties
    stamp: datetime | None = properties.timestamp
    return Delivery(
        message=WireMessage(
            exchange=delivered.exchange or "",
            routing_key=delivered.routing_key or "",
            body=delivered.body,
            message_id=properties.message_id,
            type=properties.message_type,
            correlation_id=properties.correlation_id,
            timestamp=stamp.replace(tzinfo=UTC) if stamp and stamp.tzinfo is None else stamp,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            priority=properties.priority,
            headers=MappingProxyType(dict(properties.headers or {})),
        ),
        tag=cast("int", delivered.delivery_tag),
        redelivered=bool(delivered.redelivered),
    )


@asynccontextmanager
async def _declaring(connection: AbstractConnection, kind: str, name: str) -> AsyncIterator[Any]:
    """A channel for one declaration: a refused one closes it."""
    try:
        channel = await connection.channel(publisher_confirms=False)
        yield await channel.get_underlay_channel()
        await channel.close()
    except aiormq.exceptions.ChannelNotFoundEntity:
        raise TopologyMismatch(f"{kind} {name} does not exist") from None
    except aiormq.exceptions.ChannelAccessRefused:
        raise TopologyMismatch(f"{kind} {name}: the broker's user has no permission") from None
    except aiormq.exceptions.ChannelClosed:
        raise TopologyMismatch(f"{kind} {name} exists with other arguments") from None
    except (OSError, TimeoutError, aiormq.AMQPError) as error:
        raise BrokerUnavailable(f"{kind} {name}: {type(error).__name__}") from None


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn errors of the connection into BrokerUnavailable."""
    try:
        yield
    except (OSError, TimeoutError, aiormq.AMQPError):
        raise BrokerUnavailable("the connection was lost") from None
    except asyncio.CancelledError:
        _raise_if_cancelled()
        raise BrokerUnavailable("the connection was lost") from None


def _raise_if_cancelled() -> None:
    """Raise again a cancellation that is meant for this task; others come from a dead peer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _verified(url: URL) -> bool:
    return (
        url.scheme == "amqps"
        and not url.query.get("cafile")
        and (url.query.get("no_verify_ssl", "0") in {"0", "false"})
    )


async def _close(connection: AbstractConnection) -> None:
    with suppress(OSError, TimeoutError, aiormq.AMQPError, RuntimeError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()
