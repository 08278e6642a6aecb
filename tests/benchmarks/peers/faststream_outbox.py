"""
The relay of faststream-outbox to RabbitMQ, tuned.

- Many workers, each with one message under way and a connection of its own.
- As many rows are fetched at once as all workers keep busy, and deletions are batched.
- No validation by FastDepends, no decoding of the body, no log line per message.
- New rows would wake it by NOTIFY, which its own producer sends.
"""

import asyncio
import logging
import os
import sys
from typing import Any

import uvloop
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from tests.benchmarks.peers.publishing import EVENT_TYPE

TABLE, QUEUE = "peer_faststream", "benchmark"
WORKERS, FETCH, FLUSH = 32, 500, 20

metadata = MetaData()
table = make_outbox_table(metadata, table_name=TABLE)
engine = create_async_engine(os.environ["MQ_DATABASE_URL"], pool_size=WORKERS + 1, max_overflow=0)


async def prepare() -> None:
    """Create the table."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    print("ready", flush=True)


async def undecoded(message: Any) -> tuple[str, bytes]:
    """The id of the event, and the body as it is."""
    return message.headers["event_id"], message.body


async def run() -> None:
    """Relay until the process is ended."""
    rabbit = RabbitBroker(
        os.environ["MQ_BROKER_URL"],
        default_channel=Channel(publisher_confirms=True, on_return_raises=True),
        apply_types=False,
        logger=None,
    )
    outbox = OutboxBroker(engine, outbox_table=table, apply_types=False, logger=None)
    exchange = RabbitExchange(os.environ["EXCHANGE"], declare=False)

    @outbox.subscriber(
        QUEUE,
        max_workers=WORKERS,
        fetch_batch_size=FETCH,
        terminal_flush_batch_size=FLUSH,
        min_fetch_interval=0.01,
        max_fetch_interval=0.05,
        decoder=undecoded,
    )
    async def relay(row: tuple[str, bytes]) -> None:
        identity, body = row
        await rabbit.publish(
            body,
            exchange=exchange,
            routing_key=EVENT_TYPE,
            mandatory=True,
            persist=True,
            message_id=identity,
            message_type=EVENT_TYPE,
            content_type="application/json",
        )

    await rabbit.connect()
    await outbox.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    uvloop.run({"prepare": prepare, "run": run}[sys.argv[1]]())
