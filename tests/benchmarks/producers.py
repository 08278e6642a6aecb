"""
Applications that commit events.

    python -m tests.benchmarks.producers events FILE SECONDS TYPE     100 transactions a second
    python -m tests.benchmarks.producers notifications FILE SECONDS   the same for the floor
    python -m tests.benchmarks.producers load COUNT SECONDS           COUNT at once

The first two write the id of each event, and the monotonic clock when its commit had returned.
The last prints how many transactions were committed in how many seconds.
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
from outbox import Event
from outbox.database.engine import create_engine
from tests.benchmarks import outbox_rows

PER_SECOND = 100
FLOOR_CHANNEL = "benchmark_floor"
WARM_UP_SECONDS = 0.5

_INSERT = """
INSERT INTO outbox (event_id, type, routing_key, idempotency_key, body)
VALUES ($1, $2, $2, $3, $4)
"""
_Commit: TypeAlias = Callable[[], Awaitable[UUID]]

_jitter = random.Random(4)
_payloads = [json.loads(outbox_rows.body(_jitter, number=number)) for number in range(100)]


async def events(file: Path, seconds: float, event_type: str) -> None:
    """Single events through `outbox.insert`, each in a transaction of its own."""
    engine = create_engine(
        make_url(os.environ["MQ_DATABASE_URL"]), pool_size=2, application_name="producer"
    )

    async with engine.connect() as connection:

        async def commit() -> UUID:
            event = Event(event_type, _jitter.choice(_payloads))
            await connection.execute(outbox.insert(event))
            await connection.commit()
            return event.id

        await _evenly(commit, file, seconds)
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


async def _evenly(commit: _Commit, file: Path, seconds: float) -> None:
    """Commit `PER_SECOND` times a second; one that is late does not delay those after it."""
    began = time.monotonic()
    with file.open("a", buffering=1) as lines:
        for number in range(int(seconds * PER_SECOND)):
            await asyncio.sleep(max(began + number / PER_SECOND - time.monotonic(), 0))
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


async def _connect() -> Any:
    return await asyncpg.connect(os.environ["MQ_DATABASE_URL"].replace("+asyncpg", ""))


def main() -> None:
    """Entry point."""
    print("ready", flush=True)
    match sys.argv[1:]:
        case ["events", file, seconds, event_type]:
            asyncio.run(events(Path(file), float(seconds), event_type))
        case ["notifications", file, seconds]:
            asyncio.run(notifications(Path(file), float(seconds)))
        case ["load", count, seconds]:
            asyncio.run(load(int(count), float(seconds)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
