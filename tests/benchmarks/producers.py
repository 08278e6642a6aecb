"""
Applications that commit events.

    python -m tests.benchmarks.producers events FILE SECONDS TYPE RATE   RATE a second
    python -m tests.benchmarks.producers notifications FILE SECONDS      for the floor
    python -m tests.benchmarks.producers rows FILE SECONDS RATE          for the relay by hand
    python -m tests.benchmarks.producers load COUNT SECONDS              COUNT at once
    python -m tests.benchmarks.producers bulk COUNT                      COUNT events in all

The first three write the id of each event, and the monotonic clock when its commit had returned.
`load` prints how many transactions were committed in how many seconds, and `bulk` in how many
seconds its events were, BULK in a transaction.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

import outbox
from outbox import Event, Priority
from outbox.database.engine import create_engine
from tests.benchmarks import outbox_rows
from tests.benchmarks.contenders import OWN_TABLE
from tests.benchmarks.effects import URGENT_TYPE

PER_SECOND = 100
BULK = 100
FLOOR_CHANNEL = "benchmark_floor"
WARM_UP_SECONDS = 0.5

_INSERT = """
INSERT INTO outbox (event_id, type, routing_key, idempotency_key, body)
VALUES ($1, $2, $2, $3, $4)
"""
_INSERT_BY_HAND = f"""
INSERT INTO {OWN_TABLE} (event_id, type, routing_key, content_type, body)
VALUES ($1, $2, $2, 'application/json', $3)
"""
_Commit: TypeAlias = Callable[[], Awaitable[UUID]]

_jitter = random.Random(4)
_payloads = [json.loads(outbox_rows.body(_jitter, number=number)) for number in range(100)]


async def events(file: Path, seconds: float, event_type: str, per_second: int) -> None:
    """Single events through `outbox.insert`, each in a transaction of its own."""
    priority = Priority.HIGH if event_type == URGENT_TYPE else Priority.NORMAL
    engine = create_engine(
        make_url(os.environ["MQ_DATABASE_URL"]), pool_size=2, application_name="producer"
    )

    async with engine.connect() as connection:

        async def commit() -> UUID:
            event = Event(event_type, _jitter.choice(_payloads), priority=priority)
            await connection.execute(outbox.insert(event))
            await connection.commit()
            return event.id

        await _evenly(commit, file, seconds, per_second)
    await engine.dispose()


async def notifications(file: Path, seconds: float) -> None:
    """Transactions that notify and do nothing else."""
    database = await _connect()

    async def commit() -> UUID:
        identity: UUID = uuid7()
        async with database.transaction():
            await database.execute("SELECT pg_notify($1, $2)", FLOOR_CHANNEL, str(identity))
        return identity

    await _evenly(commit, file, seconds)
    await database.close()


async def rows(file: Path, seconds: float, per_second: int) -> None:
    """Rows of an outbox by hand, each in a transaction of its own that also notifies."""
    database = await _connect()
    bodies = [json.dumps(payload).encode() for payload in _payloads]

    async def commit() -> UUID:
        identity: UUID = uuid7()
        async with database.transaction():
            await database.execute(
                _INSERT_BY_HAND, identity, outbox_rows.EVENT_TYPE, _jitter.choice(bodies)
            )
            await database.execute("SELECT pg_notify($1, '')", OWN_TABLE)
        return identity

    await _evenly(commit, file, seconds, per_second)
    await database.close()


async def _evenly(
    commit: _Commit, file: Path, seconds: float, per_second: int = PER_SECOND
) -> None:
    """Commit *per_second* times a second; one that is late does not delay those after it."""
    began = time.monotonic()
    with file.open("a", buffering=1) as lines:
        for number in range(int(seconds * per_second)):
            await asyncio.sleep(max(began + number / per_second - time.monotonic(), 0))
            identity = await commit()
            lines.write(f"{identity} {time.monotonic()}\n")


async def load(count: int, seconds: float) -> None:
    """*count* connections, each with one row per transaction, one transaction after another."""
    connections = [await _connect() for _ in range(count)]
    body = outbox_rows.body(_jitter)
    done = 0
    end = time.monotonic() + WARM_UP_SECONDS + seconds

    async def produce(database: Any) -> None:
        nonlocal done
        while time.monotonic() < end:
            identity = uuid7()
            await database.execute(_INSERT, identity, outbox_rows.EVENT_TYPE, str(identity), body)
            done += 1

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(produce(connection))
        await asyncio.sleep(WARM_UP_SECONDS)
        began, before = time.monotonic(), done
    took = time.monotonic() - began
    print(json.dumps({"transactions": done - before, "seconds": took}), flush=True)


async def bulk(count: int) -> None:
    """*count* events through `outbox.insert`, BULK in a statement and a transaction."""
    engine = create_engine(
        make_url(os.environ["MQ_DATABASE_URL"]), pool_size=2, application_name="producer"
    )

    async def record(connection: Any) -> None:
        events = [Event(outbox_rows.EVENT_TYPE, _jitter.choice(_payloads)) for _ in range(BULK)]
        await connection.execute(outbox.insert(*events))
        await connection.commit()

    async with engine.connect() as connection:
        await record(connection)
        began = time.monotonic()
        for _ in range(count // BULK):
            await record(connection)
        took = time.monotonic() - began
    await engine.dispose()
    print(json.dumps({"events": count // BULK * BULK, "seconds": took}), flush=True)


async def _connect() -> Any:
    return await asyncpg.connect(os.environ["MQ_DATABASE_URL"].replace("+asyncpg", ""))


def main() -> None:
    """Entry point."""
    print("ready", flush=True)
    match sys.argv[1:]:
        case ["events", file, seconds, event_type, per_second]:
            asyncio.run(events(Path(file), float(seconds), event_type, int(per_second)))
        case ["rows", file, seconds, per_second]:
            asyncio.run(rows(Path(file), float(seconds), int(per_second)))
        case ["notifications", file, seconds]:
            asyncio.run(notifications(Path(file), float(seconds)))
        case ["load", count, seconds]:
            asyncio.run(load(int(count), float(seconds)))
        case ["bulk", count]:
            asyncio.run(bulk(int(count)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
