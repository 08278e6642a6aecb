"""
The least that takes an event from one process into the database of another, without any safety.

    python -m tests.benchmarks.bare_path publish QUEUE
    python -m tests.benchmarks.bare_path apply QUEUE FILE

The first publishes one message for each notification. The second inserts one row for each
message, and writes down its id and the monotonic clock when the commit had returned.

What is in its favour: nothing is read from a table, claimed or removed, as the notification tells
the id; no confirm is asked for; the broker takes a message for done when it has handed it out; no
message is looked up as a duplicate; the row is a transaction of one statement, prepared and
without SQLAlchemy; aiormq is called without the layer above. Like the product it uses uvloop,
and its messages are persistent and in a queue of the same kind.
"""

import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import aiormq
import asyncpg  # type: ignore[import-untyped]
import uvloop
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from tests.benchmarks import outbox_rows
from tests.benchmarks.producers import FLOOR_CHANNEL

_PERSISTENT = 2
_APPLY = "INSERT INTO benchmark_effects (message_id, number) VALUES ($1, $2)"


async def publish(queue: str) -> None:
    """Publish what is notified, until the process is ended."""
    body = outbox_rows.body(random.Random(3))
    database, channel = await _connected()
    async with asyncio.TaskGroup() as group:

        async def send(identity: str) -> None:
            properties = Basic.Properties(delivery_mode=_PERSISTENT, message_id=identity)
            await channel.basic_publish(body, routing_key=queue, properties=properties)

        def notified(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            group.create_task(send(payload))

        await database.add_listener(FLOOR_CHANNEL, notified)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def apply(queue: str, file: Path) -> None:
    """Insert what is delivered, until the process is ended."""
    database, channel = await _connected()
    insert = await database.prepare(_APPLY)
    turn = asyncio.Lock()
    with file.open("a", buffering=1) as lines:

        async def delivered(message: DeliveredMessage) -> None:
            identity = message.header.properties.message_id
            async with turn:
                await insert.fetch(UUID(identity), "")
            lines.write(f"{identity} {time.monotonic()}\n")

        await channel.basic_consume(queue, delivered, no_ack=True)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _connected() -> tuple[Any, AbstractChannel]:
    database = await asyncpg.connect(os.environ["MQ_DATABASE_URL"].replace("+asyncpg", ""))
    broker = await aiormq.connect(os.environ["MQ_BROKER_URL"])
    return database, await broker.channel(publisher_confirms=False)


def main() -> None:
    """Entry point."""
    match sys.argv[1:]:
        case ["publish", queue]:
            uvloop.run(publish(queue))
        case ["apply", queue, file]:
            uvloop.run(apply(queue, Path(file)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
