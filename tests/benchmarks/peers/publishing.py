"""
Publishing for peers that leave the broker to their users, by aio-pika.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika import DeliveryMode, Message

EVENT_TYPE = "benchmark.row"

Publish = Callable[[str, bytes], Awaitable[None]]
"""Publishes a body with a message id; returns when the broker has confirmed it."""


def dsn() -> str:
    """The address of the database, for asyncpg."""
    return os.environ["MQ_DATABASE_URL"].replace("+asyncpg", "")


@asynccontextmanager
async def publisher() -> AsyncIterator[Publish]:
    """A connection to the broker; a message that no queue takes raises an error."""
    connection = await aio_pika.connect_robust(os.environ["MQ_BROKER_URL"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(os.environ["EXCHANGE"], ensure=False)

        async def publish(identity: str, body: bytes) -> None:
            message = Message(
                body,
                message_id=identity,
                type=EVENT_TYPE,
                content_type="application/json",
                delivery_mode=DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, EVENT_TYPE, mandatory=True)

        yield publish
