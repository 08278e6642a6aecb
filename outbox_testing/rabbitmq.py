"""
Queues of RabbitMQ, by `basic.get`. A `basic.get` sees every message that was confirmed before.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from yarl import URL

from outbox.transports.base import NoCounter
from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.connection import close, connect, connection_errors
from outbox.transports.rabbitmq.subscription import to_delivery
from outbox.transports.topology import Topology


@asynccontextmanager
async def rabbitmq_queues(urls: Sequence[URL]) -> AsyncIterator["RabbitMQQueues"]:
    """The queues of the broker behind one of *urls*."""
    connection = await connect(urls, name="outbox test", connections=NoCounter())
    try:
        with connection_errors():
            channel = await connection.channel(publisher_confirms=False)
            yield RabbitMQQueues(await channel.get_underlay_channel())
    finally:
        await close(connection)


class RabbitMQQueues:
    """The queues that *channel* reaches."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def pull(self, queue: str, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        with connection_errors(f"queue {queue}"):
            while len(deliveries) < limit:
                found = await self._channel.basic_get(queue)
                if found.delivery_tag is None:
                    break
                deliveries.append(to_delivery(found))
        return deliveries

    async def ack(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        with connection_errors(f"queue {queue}"):
            for delivery in deliveries:
                await self._channel.basic_ack(delivery.tag)

    async def delete(self, topology: Topology) -> None:
        with connection_errors():
            for queue in topology.queues:
                await self._channel.queue_delete(queue.name)
            for exchange in topology.exchanges:
                await self._channel.exchange_delete(exchange.name)
