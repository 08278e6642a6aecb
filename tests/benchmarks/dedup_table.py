"""
Two tables of processed messages, one with a history of thirty days and one without any.

Each is in a schema of its own, with the columns, indexes and storage options of the product's.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import asyncpg  # type: ignore[import-untyped]

Keys: TypeAlias = Literal["event_ids", "digests"]
"""UUIDv7 event ids grow with time; digests, as HealthDataMessage makes them, are all chance."""

FULL, EMPTY = "benchmark_full", "benchmark_empty"
CONSUMER = "benchmark"
EVENT_TYPE = "health.data.uploaded"
DAYS = 30
_PARTS = 2  # connections that fill it side by side

_OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = 'public.processed_messages'::regclass"
_INDEXES = """
SELECT indexdef FROM pg_indexes
 WHERE schemaname = 'public' AND tablename = 'processed_messages'
"""
# A row for each of so many even steps of the thirty days; UUIDv7: 48 bits of time, then the
# version, the variant and chance. OFFSET 0 keeps the planner from computing an id at each use.
_INSERT = """
INSERT INTO {schema}.processed_messages (
    consumer, idempotency_key, message_id, correlation_id, type, status,
    processing_duration_seconds, processed_at
)
SELECT $4, {key}, event_id, event_id::text, $5, 'completed', 0.01, at
  FROM (
    SELECT n, at, (
        lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || left(chance, 3) || '8' || right(chance, 15)
    )::uuid AS event_id
      FROM (
        SELECT n, now() - make_interval(days => $6) * (1 - n / $3::float8) AS at,
               md5(n::text) AS chance
          FROM generate_series($1::int, $2::int) AS n
        OFFSET 0
      ) AS timed
    OFFSET 0
  ) AS made
"""
_KEY = {"event_ids": "event_id::text", "digests": "encode(sha256(n::text::bytea), 'hex')"}
_SIZES = """
SELECT pg_relation_size(relid), pg_relation_size(indexrelid), indexrelname
  FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'processed_messages'
"""


async def make(database_url: str, database: Any, rows: int, keys: Keys) -> None:
    """Create both tables, the full one with *rows* rows; existing ones are dropped."""
    await drop(database)
    options = await database.fetchval(_OPTIONS)
    storage = f" WITH ({', '.join(options)})" if options else ""
    indexes = [row["indexdef"] for row in await database.fetch(_INDEXES)]
    for schema in (FULL, EMPTY):
        await database.execute(
            f"CREATE SCHEMA {schema} CREATE TABLE processed_messages "
            f"(LIKE public.processed_messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS){storage}"
        )
    steps = [rows * part // _PARTS for part in range(_PARTS + 1)]
    await _side_by_side(
        database_url,
        [
            (_INSERT.format(schema=FULL, key=_KEY[keys]), first + 1, last, rows)
            for first, last in pairwise(steps)
        ],
    )
    await database.execute("SET maintenance_work_mem = '1GB'")
    for schema in (FULL, EMPTY):
        for index in indexes:
            await database.execute(index.replace(" ON public.", f" ON {schema}."))
    await database.execute("RESET maintenance_work_mem")
    await database.execute(f"VACUUM (ANALYZE) {FULL}.processed_messages")


async def _side_by_side(database_url: str, work: Sequence[tuple[str, int, int, int]]) -> None:
    async def insert(statement: str, *numbers: int) -> None:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            await connection.execute(statement, *numbers, CONSUMER, EVENT_TYPE, DAYS)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(insert(*one))


async def settle(database: Any) -> None:
    """Empty the empty table, and make a checkpoint."""
    await database.execute(f"TRUNCATE {EMPTY}.processed_messages")
    await database.execute("CHECKPOINT")


async def sizes(database: Any) -> dict[str, int]:
    """Bytes of the full table and of each of its indexes, by name."""
    rows = await database.fetch(_SIZES, FULL)
    return {"table": rows[0][0], **{name: size for _, size, name in rows}}


async def drop(database: Any) -> None:
    """Drop both tables."""
    await database.execute(f"DROP SCHEMA IF EXISTS {FULL}, {EMPTY} CASCADE")
