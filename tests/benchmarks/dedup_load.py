"""
The statements of the product's dedup store, and nothing else.

    python -m tests.benchmarks.dedup_load record event_ids|digests SECONDS SCHEMA...
    python -m tests.benchmarks.dedup_load purge SCHEMA DAYS SECONDS

The first records new messages on eight connections, a hundred in a transaction; each schema has
its turn for about a second, again and again, so that what slows the machine down slows all. The
second deletes what is older, as the janitor does, until nothing is or the time is over. Both
print what they did.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import uvloop
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from uuid_utils.compat import uuid7

from consumer.storage.dedup import Dedup
from consumer.storage.purge import PURGE_LIMIT, Purged
from consumer.storage.purge import purge as purge_rows
from outbox.database.engine import create_engine
from outbox.wire.envelope import Envelope
from tests.benchmarks.dedup_table import CONSUMER, EVENT_TYPE, Keys

WRITERS, PER_TRANSACTION = 8, 100
WARM_UP_SECONDS, BURST_SECONDS = 0.5, 1.0
_WAL = sa.text("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")


async def record(keys: Keys, seconds: float, schemas: Sequence[str]) -> None:
    """Record new messages, one transaction after another on each connection."""
    engines = {schema: _engine(schema) for schema in schemas}
    found = {schema: Counter[str]() for schema in schemas}
    for engine in engines.values():
        await _burst(engine, keys, WARM_UP_SECONDS)
    turns = max(round(seconds / BURST_SECONDS / len(schemas)), 1)
    for number in range(turns):
        # There and back, so that none always comes after the same one.
        for schema in schemas if number % 2 else reversed(schemas):
            found[schema].update(
                await _burst(engines[schema], keys, seconds / turns / len(schemas))
            )
    _say({schema: dict(sums) for schema, sums in found.items()})
    for engine in engines.values():
        await engine.dispose()


async def _burst(engine: AsyncEngine, keys: Keys, seconds: float) -> dict[str, float]:
    """The rows, seconds and bytes of WAL of all connections together."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    dedup = Dedup(CONSUMER)
    rows = 0
    wal = await _wal(engine)
    began = time.monotonic()

    async def write() -> None:
        nonlocal rows
        while time.monotonic() < began + seconds:
            async with sessions.begin() as session:
                made = [_envelope(keys) for _ in range(PER_TRANSACTION)]
                entries = {envelope.idempotency_key: (envelope, 1) for envelope in made}
                if len(await dedup.record_completed(session, entries)) < PER_TRANSACTION:
                    raise RuntimeError("a new message was taken for a duplicate")
            rows += PER_TRANSACTION

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write())
    took = time.monotonic() - began
    return {"rows": rows, "seconds": took, "wal_bytes": await _wal(engine) - wal}


async def _wal(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(_WAL)).scalar_one())


async def purge(schema: str, days: float, seconds: float) -> None:
    """One transaction per statement; the longest is from its BEGIN to the end of its COMMIT."""
    engine = _engine(schema)
    rows, longest = 0, 0.0
    began = time.monotonic()
    purged = Purged(PURGE_LIMIT, until=None)
    while purged.rows == PURGE_LIMIT and time.monotonic() < began + seconds:
        start = time.monotonic()
        async with engine.begin() as connection:
            purged = await purge_rows(
                connection, CONSUMER, older_than=timedelta(days=days), since=purged.until
            )
        longest = max(longest, time.monotonic() - start)
        rows += purged.rows
    _say({"rows": rows, "seconds": time.monotonic() - began, "longest_seconds": longest})
    await engine.dispose()


def _engine(schema: str) -> AsyncEngine:
    """The product's engine, with *schema* before all others."""
    engine = create_engine(
        make_url(os.environ["MQ_DATABASE_URL"]), pool_size=WRITERS, application_name="dedup"
    )

    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def _search(
        _dialect: object, _record: object, _arguments: object, named: dict[str, Any]
    ) -> None:
        named["server_settings"]["search_path"] = f"{schema}, public"

    return engine


def _envelope(keys: Keys) -> Envelope:
    identity: UUID = uuid7()
    key = str(identity)
    if keys == "digests":
        key = hashlib.sha256(key.encode()).hexdigest()
    return Envelope(
        id=identity,
        type=EVENT_TYPE,
        body=b"",
        routing_key=EVENT_TYPE,
        idempotency_key=key,
        occurred_at=datetime.now(UTC),
        correlation_id=str(identity),
    )


def _say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    """Entry point."""
    print("ready", flush=True)
    match sys.argv[1:]:
        case ["record", ("event_ids" | "digests") as keys, seconds, *schemas]:
            uvloop.run(record(keys, float(seconds), schemas))
        case ["purge", schema, days, seconds]:
            uvloop.run(purge(schema, float(days), float(seconds)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
