"""
A consumer as one would write it by hand, with each effect once: one transaction per message.

    python -m tests.benchmarks.handwritten QUEUE

Says `ready` when it consumes; MQ_DATABASE_URL and MQ_BROKER_URL say where. It runs on uvloop, as
the product does.

What is in its favour: a dedup row of two columns, and no second index; no model, no check
of a message, no retry, no dead letter, no deadline, no log, no metric; a message that fails ends
it. A prefetch of 100 keeps its eight transactions busy.
"""

import asyncio
import json
import os
import sys
from uuid import UUID

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.benchmarks import effects
from tests.benchmarks.effects import Effect

PREFETCH = 100
CONCURRENCY = 8

_FIRST_TIME = (
    insert(effects.handled).on_conflict_do_nothing().returning(effects.handled.c.message_id)
)


async def consume(queue_name: str) -> None:
    """Handle what is in the queue, until the process is ended."""
    engine = create_async_engine(os.environ["MQ_DATABASE_URL"], pool_size=CONCURRENCY)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    connection = await aio_pika.connect_robust(os.environ["MQ_BROKER_URL"])
    async with connection, asyncio.TaskGroup() as group:
        channel = await connection.channel()
        await channel.set_qos(PREFETCH)
        queue = await channel.get_queue(queue_name)
        messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

        async def work() -> None:
            while True:
                message = await messages.get()
                async with sessions.begin() as session:
                    await _handle(message, session)
                await message.ack()

        for _ in range(CONCURRENCY):
            group.create_task(work())
        print("ready", flush=True)
        await queue.consume(messages.put)
        await asyncio.Event().wait()


async def _handle(message: AbstractIncomingMessage, session: AsyncSession) -> None:
    identity = UUID(message.message_id)
    result = await session.execute(_FIRST_TIME, {"message_id": identity})
    if result.first() is not None:
        payload = json.loads(message.body)
        session.add(Effect(message_id=identity, number=payload["number"]))


if __name__ == "__main__":
    uvloop.run(consume(sys.argv[1]))
