"""
Relays as one would write them by hand, and a publisher without a database.

    python -m tests.benchmarks.contenders gather [larger-writes]
    python -m tests.benchmarks.contenders notified FILE
    python -m tests.benchmarks.contenders publisher ROWS

The relays say `ready` and then wait for rows; MQ_DATABASE_URL and MQ_BROKER_URL say where. All of
them run on uvloop, as the product does.

What is in favour of the relays: asyncpg without SQLAlchemy; no checks of a row, no deadlines, no
retries, no logs, no metrics, no ordering keys; few properties and no headers; an empty table is
looked at again after 10 ms; a row is marked by deleting it, the cheapest way.
Like the product they lock rows against other relays, and publish persistent, mandatory and
confirmed, of returned messages too.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiormq.connection
import asyncpg  # type: ignore[import-untyped]
import uvloop
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractExchange

from outbox.wire.codec import WireMessage
from tests.benchmarks import outbox_rows, prepared_messages

BATCH = 500
LARGER_WRITES = 2_000
IDLE_SECONDS = 0.01
EXCHANGE = "health_data_exchange"  # the default of MQ_MAIN_EXCHANGE
OWN_TABLE = "benchmark_outbox"
"""The outbox of the relay that is woken, as one would make it by hand; also its channel."""

CREATE_OWN_TABLE = f"""
CREATE TABLE IF NOT EXISTS {OWN_TABLE} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL,
    type text NOT NULL, routing_key text NOT NULL, content_type text NOT NULL, body bytea NOT NULL
)
"""

_CLAIM = """
SELECT id, event_id, type, routing_key, content_type, body FROM outbox
 WHERE ordering_key IS NULL AND not_before IS NULL
 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_CLAIM_OWN = f"""
SELECT id, event_id, type, routing_key, content_type, body FROM {OWN_TABLE}
 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""


async def gather() -> None:
    """
    Publish five hundred rows at once; one DELETE and one commit for all of them.

    In its favour: a failed publish rolls back the whole batch, so it keeps no account of rows.
    """
    async with connections() as (database, channel):
        exchange = await channel.get_exchange(EXCHANGE)
        await _relay_batch(database, exchange, claim=_CLAIM, table="outbox")  # prepared
        _say("ready")
        while True:
            if not await _relay_batch(database, exchange, claim=_CLAIM, table="outbox"):
                await asyncio.sleep(IDLE_SECONDS)


async def notified(file: Path) -> None:
    """
    The same from a table of its own, woken by NOTIFY; writes when each event was confirmed.

    In its favour: no other program writes to the table, and it never polls.
    """
    async with connections() as (database, channel):
        listener = await asyncpg.connect(_dsn())
        exchange = await channel.get_exchange(EXCHANGE)
        await database.execute(CREATE_OWN_TABLE)
        await _relay_batch(database, exchange, claim=_CLAIM_OWN, table=OWN_TABLE)
        woken = asyncio.Event()
        await listener.add_listener(OWN_TABLE, lambda *_: woken.set())
        _say("ready")
        with file.open("a", buffering=1) as lines:
            while True:
                await woken.wait()
                woken.clear()
                while rows := await _relay_batch(
                    database, exchange, claim=_CLAIM_OWN, table=OWN_TABLE, lines=lines
                ):
                    if len(rows) < BATCH:
                        break


async def _relay_batch(
    database: Any, exchange: AbstractExchange, *, claim: str, table: str, lines: Any = None
) -> Sequence[Any]:
    async with database.transaction():
        rows: Sequence[Any] = await database.fetch(claim, BATCH)
        if not rows:
            return rows

        async def publish(row: Any) -> None:
            await exchange.publish(_message(row), row["routing_key"], mandatory=True)
            if lines is not None:
                lines.write(f"{row['event_id']} {time.monotonic()}\n")

        await asyncio.gather(*(publish(row) for row in rows))
        await database.execute(
            f"DELETE FROM {table} WHERE id = ANY($1::bigint[])", [row["id"] for row in rows]
        )
    return rows


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


@asynccontextmanager
async def connections() -> AsyncIterator[tuple[Any, AbstractChannel]]:
    """A database connection, and a channel with confirms."""
    database = await asyncpg.connect(_dsn())
    broker = await aio_pika.connect_robust(os.environ["MQ_BROKER_URL"])
    async with broker:
        yield database, await broker.channel(publisher_confirms=True, on_return_raises=True)
    await database.close()


def _dsn() -> str:
    return os.environ["MQ_DATABASE_URL"].replace("+asyncpg", "")


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Entry point."""
    match sys.argv[1:]:
        case ["gather"]:
            uvloop.run(gather())
        case ["gather", "larger-writes"]:
            # Not documented, and known to few: how many frames aiormq writes at once.
            aiormq.connection.Connection.FRAME_BUFFER_SIZE = LARGER_WRITES
            uvloop.run(gather())
        case ["notified", file]:
            uvloop.run(notified(Path(file)))
        case ["publisher", count]:
            uvloop.run(publisher(int(count)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
