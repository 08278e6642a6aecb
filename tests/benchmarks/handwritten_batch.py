"""
A consumer as one would write it by hand for speed, with each effect once: many messages at once.

    python -m tests.benchmarks.handwritten_batch QUEUE [asyncpg]

Says `ready` when it consumes; MQ_DATABASE_URL and MQ_BROKER_URL say where. It takes what waits,
up to five hundred messages, and never waits for more. A batch is one transaction of two
INSERTs with many rows each, and one `ack(multiple)` after the commit. The INSERTs are those of
SQLAlchemy's session, as in the product's handlers, or of asyncpg alone.

What is in its favour: the same as in `handwritten.py`, and a message that fails takes all of its
batch with it. With asyncpg its effects are no objects of the application.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg  # type: ignore[import-untyped]
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from tests.benchmarks import effects
from tests.benchmarks.effects import Effect

BATCH = 500
PREFETCH = 2 * BATCH
Handle = Callable[[dict[UUID, Any]], Awaitable[None]]
"""Handles payloads by message id, each once."""

_FIRST_TIME = (
    insert(effects.handled).on_conflict_do_nothing().returning(effects.handled.c.message_id)
)
_ASYNCPG_FIRST_TIME = """
INSERT INTO benchmark_handled (message_id) SELECT * FROM unnest($1::uuid[])
ON CONFLICT DO NOTHING RETURNING message_id
"""
_ASYNCPG_EFFECTS = """
INSERT INTO benchmark_effects (message_id, number) SELECT * FROM unnest($1::uuid[], $2::text[])
"""


async def consume(queue_name: str, handle: Handle) -> None:
    """Handle what is in the queue, until the process is ended."""
    connection = await aio_pika.connect_robust(os.environ["MQ_BROKER_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(PREFETCH)
        queue = await channel.get_queue(queue_name)
        messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        print("ready", flush=True)
        await queue.consume(messages.put)
        while True:
            batch = [await messages.get()]
            while len(batch) < BATCH and not messages.empty():
                batch.append(messages.get_nowait())
            await handle({UUID(each.message_id): json.loads(each.body) for each in batch})
            await batch[-1].ack(multiple=True)


async def with_session(queue_name: str) -> None:
    """One flush for the effects of a batch."""
    sessions = async_sessionmaker(create_async_engine(os.environ["MQ_DATABASE_URL"]))

    async def handle(payloads: dict[UUID, Any]) -> None:
        async with sessions.begin() as session:
            rows = [{"message_id": identity} for identity in payloads]
            first_times = (await session.execute(_FIRST_TIME, rows)).scalars().all()
            session.add_all(
                Effect(message_id=identity, number=payloads[identity]["number"])
                for identity in first_times
            )

    await consume(queue_name, handle)


async def with_asyncpg(queue_name: str) -> None:
    """Two statements with arrays."""
    database = await asyncpg.connect(os.environ["MQ_DATABASE_URL"].replace("+asyncpg", ""))

    async def handle(payloads: dict[UUID, Any]) -> None:
        async with database.transaction():
            rows = await database.fetch(_ASYNCPG_FIRST_TIME, list(payloads))
            first_times = [row[0] for row in rows]
            numbers = [payloads[identity]["number"] for identity in first_times]
            await database.execute(_ASYNCPG_EFFECTS, first_times, numbers)

    await consume(queue_name, handle)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [queue]:
            uvloop.run(with_session(queue))
        case [queue, "asyncpg"]:
            uvloop.run(with_asyncpg(queue))
        case _:
            raise SystemExit(__doc__)
