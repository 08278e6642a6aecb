"""
Deliveries from one queue of RabbitMQ.

There are two methods. With `frames` this project decodes the deliveries itself, see
`frame_reader`; every message arrives, whatever it contains. With `callback` aiormq calls a
function for each delivery, at several times the cost. A message whose properties cannot be decoded
then ends the connection at each delivery, until the broker dead-letters it: set a delivery limit.

An ordered subscription is never cancelled, and requeues no message by itself. If the active
consumer of a queue with a single active consumer is cancelled, the broker activates the next one
although the first still has unsettled messages, so the next one gets younger messages first.
Deliveries may even be in transit when all others are settled. If the channel closes instead, the
queue takes back all unsettled messages in their order, and then activates the next consumer, in
one step. That counts as a failed delivery.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

import aiormq
import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.rabbitmq.acks import Acks, BatchedAcks
from outbox.transports.rabbitmq.connection import CLOSE_SECONDS, connection_errors
from outbox.transports.rabbitmq.direct_acks import DirectAcks
from outbox.transports.rabbitmq.frame_reader import FrameReader, incompatibility
from outbox.transports.rabbitmq.publisher import RabbitMQPublisher
from outbox.wire.codec import WireMessage

DeliveryMethodName: TypeAlias = Literal["frames", "callback"]


class RabbitMQSubscription:
    """
    Deliveries of one queue, on its own connection; *publisher* publishes copies.

    Args:
        method: `frames` falls back to `callback` if aiormq is not compatible.
        ordered: Whether unsettled messages go back only together, when the channel closes.

    """

    _REPLACE_WITHIN = timedelta(seconds=10)

    def __init__(
        self,
        connection: AbstractConnection,
        publisher: RabbitMQPublisher,
        queue: str,
        *,
        method: DeliveryMethodName,
        ordered: bool,
    ) -> None:
        self.method = method
        self._ordered = ordered
        self._connection = connection
        self._publisher = publisher
        self._queue = queue
        self._prefetch = 0
        self._channel: Any = None
        self._consumer_tags: list[str] = []
        # Held while a consumer is started or cancelled.
        self._turn = asyncio.Lock()
        self._buffer = DeliveryBuffer()
        self._acks: Acks

    async def start(self, prefetch: int) -> None:
        """
        Start receiving.

        Raises TopologyMismatch if the queue does not exist, and BrokerUnavailable, which is
        `refused` if the user may not read it.
        """
        with connection_errors("cannot consume"):
            channel = await self._connection.channel(publisher_confirms=False)
            self._channel = await channel.get_underlay_channel()
            self._channel.closing.add_done_callback(self._on_end)
            # The broker cancels a consumer if its queue is deleted or gets another leader.
            self._channel.on_consumer_cancel_callbacks.add(self._on_end)
            self._choose_method()
            try:
                await self._consume(prefetch)
            except aiormq.exceptions.ChannelNotFoundEntity:
                raise TopologyMismatch(f"queue {self._queue} does not exist") from None
            except aiormq.exceptions.ChannelAccessRefused:
                raise BrokerUnavailable(
                    f"queue {self._queue}: the broker's user may not read it", refused=True
                ) from None

    async def take(self, limit: int) -> list[Delivery]:
        if not self._buffer and 2 * self._acks.waiting >= self._prefetch:
            # The broker may wait for these acks before it delivers the next message. With fewer
            # waiting acks, it has delivered others that no task has begun yet.
            self._acks.flush()
        return await self._buffer.take(limit)

    async def raise_prefetch(self, prefetch: int) -> None:
        async with self._turn:
            if prefetch <= self._prefetch or self._buffer.ended:
                return
            with connection_errors():
                await self._consume(prefetch)

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        self._acks.flush()
        if self._ordered:
            return
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._cancel()
        if left := self._buffer.drain():
            await self._acks.release([delivery.tag for delivery in left])

    async def close(self) -> None:
        """
        Send the waiting acks and close; the broker delivers all other messages again.

        It may also redeliver messages that were acked one by one shortly before, if they are many:
        a channel loses acks that it has not passed to a quorum queue yet. It passes them before it
        cancels a consumer, so an unordered subscription loses no ack that was sent before `stop`.
        """
        self._buffer.end()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._acks.close()
                await (self._close_channel() if self._ordered else self._cancel())

    async def ack(self, *deliveries: Delivery) -> None:
        await self._acks.ack([delivery.tag for delivery in deliveries])

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        outcome = (await self._publisher.publish([copy], within=self._REPLACE_WITHIN))[0]
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        # RabbitMQ before 4.3 counts a message twice if it is requeued during a cancel.
        async with self._turn:
            await self._acks.release([delivery.tag])

    def _choose_method(self) -> None:
        if self.method == "frames" and (
            missing := incompatibility(self._connection, self._channel)
        ):
            structlog.get_logger(component="rabbitmq").warning(
                "frame_deliveries_unavailable", missing=missing, method="callback"
            )
            self.method = "callback"
        if self.method == "frames":
            reader: FrameReader = cast("Any", self._connection).frame_reader
            reader.follow(self._channel.number, self._buffer.put)
            self._acks = BatchedAcks(self._channel)
        else:
            self._acks = DirectAcks(self._channel)

    async def _consume(self, prefetch: int) -> None:
        """
        Start another consumer, so that all consumers together have *prefetch*.

        The prefetch of a consumer is fixed when it subscribes. Cancelling it to start another
        would make the queue take back deliveries in transit, out of order and counted as failed.
        """
        await self._channel.basic_qos(prefetch_count=prefetch - self._prefetch)
        consuming = await self._channel.basic_consume(self._queue, self._on_delivery)
        self._consumer_tags.append(consuming.consumer_tag)
        self._prefetch = prefetch

    async def _cancel(self) -> None:
        with connection_errors():
            async with self._turn:
                while self._consumer_tags:
                    await self._channel.basic_cancel(self._consumer_tags.pop())

    async def _close_channel(self) -> None:
        with connection_errors():
            await self._channel.close()

    async def _on_delivery(self, delivered: DeliveredMessage) -> None:
        self._buffer.put([to_delivery(delivered)])

    def _on_end(self, cause: Any) -> None:
        # The broker delivers the buffered messages again; they cannot be acked any more.
        self._buffer.fail(reason_of_end(cause))


def reason_of_end(cause: Any) -> str:
    """
    Why a subscription has ended; quotes no text of errors.

    *cause* is the future `closing` of its channel, or the frame by which the broker cancels it.
    """
    if isinstance(cause, Basic.Cancel):
        # RabbitMQ 4.3 cancels where earlier versions close the channel for a consumer_timeout.
        return (
            "the broker cancelled the subscription: the queue was deleted or has another leader,"
            " or a message was unsettled for its consumer_timeout"
        )
    closed = isinstance(cause, asyncio.Future) and cause.done() and not cause.cancelled()
    error = cause.exception() if closed else None
    if isinstance(error, aiormq.exceptions.ChannelPreconditionFailed) and "timed out" in str(
        error
    ):
        return "the broker closed the channel: a message was unsettled for its consumer_timeout"
    return "the connection was lost"


def to_delivery(delivered: DeliveredMessage) -> Delivery:
    """The delivery that aiormq has *delivered*."""
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
            reply_to=properties.reply_to,
            timestamp=stamp.replace(tzinfo=UTC) if stamp and stamp.tzinfo is None else stamp,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            priority=properties.priority,
            headers=MappingProxyType(dict(properties.headers or {})),
        ),
        tag=cast("int", delivered.delivery_tag),
        redelivered=bool(delivered.redelivered),
    )
