"""
Deliveries from one queue of RabbitMQ.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, cast

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from outbox.codec import WireMessage
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Delivery, Outcome
from outbox.transports.inbox import Inbox
from outbox.transports.rabbitmq_connection import (
    CLOSE_SECONDS,
    connection_errors,
)
from outbox.transports.rabbitmq_publisher import RabbitMQPublisher


class RabbitMQSubscription:
    """Deliveries of one queue, on a connection of its own; copies go through *publisher*."""

    _REPLACE_WITHIN = timedelta(seconds=10)

    def __init__(
        self, connection: AbstractConnection, publisher: RabbitMQPublisher, queue: str
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._queue = queue
        self._prefetch = 0
        self._channel: Any = None
        self._consumer_tag: str | None = None
        self._inbox = Inbox()

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
            try:
                await self._consume(prefetch)
            except aiormq.exceptions.ChannelNotFoundEntity:
                raise TopologyMismatch(f"queue {self._queue} does not exist") from None

    async def take(self, limit: int) -> list[Delivery]:
        return await self._inbox.take(limit)

    async def widen(self, prefetch: int) -> None:
        if prefetch <= self._prefetch or self._inbox.ended:
            return
        old = self._consumer_tag
        with connection_errors():
            await self._consume(prefetch)
            await self._channel.basic_cancel(old)

    async def stop(self) -> None:
        if self._inbox.ended:
            return
        left = self._inbox.end()
        with suppress(BrokerUnavailable), connection_errors():
            await self._channel.basic_cancel(self._consumer_tag, timeout=CLOSE_SECONDS)
        for delivery in left:
            await self.release(delivery)

    async def ack(self, *deliveries: Delivery) -> None:
        with connection_errors():
            for delivery in deliveries:
                await self._channel.basic_ack(delivery.tag)

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        outcome = (await self._publisher.publish([copy], within=self._REPLACE_WITHIN))[0]
        if outcome is Outcome.ACKED:
            await self.ack(delivery)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        with connection_errors():
            await self._channel.basic_nack(delivery.tag, requeue=True)

    async def _consume(self, prefetch: int) -> None:
        """Subscribe anew: a consumer's prefetch is the channel's at the time it subscribes."""
        await self._channel.basic_qos(prefetch_count=prefetch)
        consuming = await self._channel.basic_consume(self._queue, self._on_delivery)
        self._consumer_tag = consuming.consumer_tag
        self._prefetch = prefetch

    async def _on_delivery(self, delivered: DeliveredMessage) -> None:
        self._inbox.put([_to_delivery(delivered)])

    def _on_end(self, _cause: Any) -> None:
        # What is still here will come again; nobody could ack it now.
        self._inbox.lose("the connection was lost")


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
