"""
Deliveries from one queue of RabbitMQ.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, cast

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from outbox.codec import WireMessage, retried
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.topology import ConsumerQueues
from outbox.transports.base import Delivery, Outcome
from outbox.transports.rabbitmq_connection import (
    CLOSE_SECONDS,
    connection_errors,
)
from outbox.transports.rabbitmq_publisher import RabbitMQPublisher


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
        with connection_errors("cannot consume"):
            channel = await self._connection.channel(publisher_confirms=False)
            self._channel = await channel.get_underlay_channel()
            self._channel.closing.add_done_callback(self._on_end)
            # The broker cancels a consumer whose queue is deleted, or has another leader.
            self._channel.on_consumer_cancel_callbacks.add(self._on_end)
            await self._channel.basic_qos(prefetch_count=prefetch)
            try:
                consuming = await self._channel.basic_consume(name, self._on_delivery)
            except aiormq.exceptions.ChannelNotFoundEntity:
                raise TopologyMismatch(f"queue {name} does not exist") from None
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
        with suppress(BrokerUnavailable), connection_errors():
            await self._channel.basic_cancel(self._consumer_tag, timeout=CLOSE_SECONDS)
        while not self._inbox.empty():
            delivery = self._inbox.get_nowait()
            if delivery is not None:
                await self.release(delivery)
        self._inbox.put_nowait(None)

    async def ack(self, delivery: Delivery) -> None:
        with connection_errors():
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
        with connection_errors():
            await self._channel.basic_nack(delivery.tag, requeue=True)

    async def _on_delivery(self, delivered: DeliveredMessage) -> None:
        self._inbox.put_nowait(_to_delivery(delivered))

    def _on_end(self, _cause: Any) -> None:
        # What is still here will come again; nobody could ack it now.
        self._lost = True
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)


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
