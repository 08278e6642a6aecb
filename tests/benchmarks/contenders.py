"""
Relays as one would write them by hand, and a publisher without a database.

    python -m tests.benchmarks.contenders naive | gather | publisher [ROWS]

The relays say `ready` and then wait for rows; MQ_DATABASE_URL and MQ_BROKER_URL say where.

What is in favour of both hand-written relays: asyncpg without SQLAlchemy; no checks of a row, no
deadlines, no retries, no logs, no metrics, no ordering keys; few properties and no headers; an
empty table is looked at again after 10 ms; a row is marked by deleting it, the cheapest way.
Like the product they lock rows against other relays, and publish persistent, mandatory and
confirmed, of returned messages too.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aio_pika
import asyncpg  # type: ignore[import-untyped]
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractExchange

from outbox.wire.codec import WireMessage
from tests.benchmarks import outbox_rows, prepared_messages

NAIVE_BATCH = 100
GATHER_BATCH = 500
IDLE_SECONDS = 0.01
EXCHANGE = "health_data_exchange"  # the default of MQ_MAIN_EXCHANGE

_CLAIM = """
SELECT id, event_id, type, routing_key, content_type, body FROM outbox
 WHERE ordering_key IS NULL AND not_before IS NULL
 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_Batch: TypeAlias = Callable[[Any, AbstractExchange], Coroutine[Any, Any, int]]


async def naive() -> None:
    """
    Publish rows one after another, each awaited and then marked; one commit per batch.

    In its favour: one commit for a hundred rows, where many such relays commit each row.
    """

    async def batch(database: Any, exchange: AbstractExchange) -> int:
        async with database.transaction():
            rows = await database.fetch(_CLAIM, NAIVE_BATCH)
            for row in rows:
                await exchange.publish(_message(row), row["routing_key"], mandatory=True)
                await database.execute("DELETE FROM outbox WHERE id = $1", row["id"])
        return len(rows)

    await _relay(batch)


async def gather() -> None:
    """
    Publish five hundred rows at once; one DELETE and one commit for all of them.

    In its favour: a failed publish rolls back the whole batch, so it keeps no account of rows.
    """

    async def batch(database: Any, exchange: AbstractExchange) -> int:
        async with database.transaction():
            rows = await database.fetch(_CLAIM, GATHER_BATCH)
            await asyncio.gather(
                *(exchange.publish(_message(r), r["routing_key"], mandatory=True) for r in rows)
            )
            await database.execute(
                "DELETE FROM outbox WHERE id = ANY($1::bigint[])", [row["id"] for row in rows]
            )
        return len(rows)

    await _relay(batch)


async def publisher(count: int) -> None:
    """
    The product's own publisher, as fast as it goes: two calls of 500 prepared messages in flight.

    It begins at once, prints how long about *count* messages took and what they cost, and ends.

    In its favour, and thus against the relay: messages are made before the clock starts, and the
    garbage collector does not look at them.
    """
    async with prepared_messages.publisher(
        os.environ["MQ_BROKER_URL"], name="bare publisher"
    ) as to:
        await prepared_messages.publish_all(to, iter([_batch()]))  # connected and warm
        batches = iter([_batch() for _ in range(count // prepared_messages.BATCH)])
        gc.collect()
        gc.freeze()
        _say("ready")
        began, used = time.monotonic(), time.process_time()
        await prepared_messages.publish_all(to, batches)
        took, used = time.monotonic() - began, time.process_time() - used
        rows = count // prepared_messages.BATCH * prepared_messages.BATCH
        _say(json.dumps({"rows": rows, "seconds": took, "cpu_seconds": used}))


def _batch() -> list[WireMessage]:
    return prepared_messages.messages(
        prepared_messages.BATCH,
        exchange=EXCHANGE,
        routing_key=outbox_rows.EVENT_TYPE,
        event_type=outbox_rows.EVENT_TYPE,
    )


def _message(row: Any) -> Message:
    return Message(
        row["body"],
        message_id=str(row["event_id"]),
        type=row["type"],
        content_type=row["content_type"],
        delivery_mode=DeliveryMode.PERSISTENT,
    )


async def _relay(batch: _Batch) -> None:
    async with connections() as (database, channel):
        exchange = await channel.get_exchange(EXCHANGE)
        await batch(database, exchange)  # statements are prepared
        _say("ready")
        while True:
            if not await batch(database, exchange):
                await asyncio.sleep(IDLE_SECONDS)


@asynccontextmanager
async def connections() -> AsyncIterator[tuple[Any, AbstractChannel]]:
    """A database connection, and a channel with confirms."""
    database = await asyncpg.connect(os.environ["MQ_DATABASE_URL"].replace("+asyncpg", ""))
    broker = await aio_pika.connect_robust(os.environ["MQ_BROKER_URL"])
    async with broker:
        yield database, await broker.channel(publisher_confirms=True, on_return_raises=True)
    await database.close()


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Entry point."""
    match sys.argv[1:]:
        case ["naive"]:
            asyncio.run(naive())
        case ["gather"]:
            asyncio.run(gather())
        case ["publisher", count]:
            asyncio.run(publisher(int(count)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
