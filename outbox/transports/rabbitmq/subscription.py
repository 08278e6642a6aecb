"""
Deliveries from one queue of RabbitMQ.

They come in one of two ways. `frames` reads them itself, see `rabbitmq_tap`; whatever is in a
message, it arrives. `callback` has aiormq call for each, at several times the cost, and a message
whose properties cannot be read ends the connection, again and again, until the broker
dead-letters it: for want of a better cure set a delivery limit.

An ordered subscription is never cancelled, and hands nothing back by itself. A queue with a single
active consumer activates the next one when the first is cancelled, though what that has unsettled
is still out: the next one gets younger messages first. Some may even be on their way to us when
everything else is settled. When the channel closes, the queue takes back all that is unsettled, in
its order, and then activates the next consumer, in one step. That counts as a failed delivery.
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
    Deliveries of one queue, on a connection of its own; copies go through *publisher*.

    Args:
        method: How deliveries come in; `frames` falls back to `callback` where it cannot work.
        ordered: Whether the queue is kept until everything unsettled can go back at once.

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
        # Held while the broker is told to begin or end.
        self._turn = asyncio.Lock()
        self._buffer = DeliveryBuffer()
        self._acks: Acks

    async def start(self, prefetch: int) -> None:
        """
        Begin to receive.

        Raises TopologyMismatch if the queue does not exist.
        """
        with connection_errors("cannot consume"):
            channel = await self._connection.channel(publisher_confirms=False)
            self._channel = await channel.get_underlay_channel()
            self._channel.closing.add_done_callback(self._on_end)
            # The broker cancels a consumer whose queue is deleted, or has another leader.
            self._channel.on_consumer_cancel_callbacks.add(self._on_end)
            self._choose_method()
            try:
                await self._consume(prefetch)
            except aiormq.exceptions.ChannelNotFoundEntity:
                raise TopologyMismatch(f"queue {self._queue} does not exist") from None

    async def take(self, limit: int) -> list[Delivery]:
        if not self._buffer and 2 * self._acks.waiting >= self._prefetch:
            # The next delivery may be waiting for the acks of those before. As long as they are
            # fewer, the broker has delivered others that nobody has begun yet.
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
        if left := self._buffer.left():
            await self._acks.release([delivery.tag for delivery in left])

    async def close(self) -> None:
        """
        Tell the broker what is settled; everything else comes again.

        So may what was acked shortly before, if it is much and was acked one by one: a channel
        forgets acks that it has not handed to a quorum queue yet. It hands them over before it
        cancels a consumer, so for one that is not ordered this goes back to before `stop`.
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
        await self._acks.release([delivery.tag])

    def _choose_method(self) -> None:
        if self.method == "frames" and (
            decode_error := incompatibility(self._connection, self._channel)
        ):
            structlog.get_logger(component="rabbitmq").warning(
                "frame_deliveries_unavailable", missing=decode_error, method="callback"
            )
            self.method = "callback"
        if self.method == "frames":
            tap: FrameReader = cast("Any", self._connection).tap
            tap.follow(self._channel.number, self._buffer.put)
            self._acks = BatchedAcks(self._channel)
        else:
            self._acks = DirectAcks(self._channel)

    async def _consume(self, prefetch: int) -> None:
        """
        Have one consumer more, so that all of them have *prefetch* together.

        What a consumer may have unsettled is fixed when it subscribes. Cancelling it for another
        would make the queue take back what is under way: out of order, and counted as failed.
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
        self._buffer.put([_to_delivery(delivered)])

    def _on_end(self, _cause: Any) -> None:
        # What is still here will come again; nobody could ack it now.
        self._buffer.lose("the connection was lost")


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
