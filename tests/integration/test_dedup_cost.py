"""
The cost of a purge of the dedup store, counted and not timed.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.maintenance.retention import Retention
from consumer.storage.dedup_statistics import statistics
from consumer.storage.purge import PURGE_LIMIT, purge
from outbox.database.engine import create_engine
from tests.support.query_plans import blocks_read, recorded, rows_read

MANY = 60_000
MONTH = timedelta(days=30)

_FILL = """
INSERT INTO processed_messages
    (consumer, idempotency_key, message_id, type, status, processed_at)
SELECT $1, md5($2::int || ' ' || n), gen_random_uuid(), 't', 'completed',
       clock_timestamp() - make_interval(days => $2::int) - make_interval(secs => n)
  FROM generate_series(1, $3::int) n
"""


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    async with engine.begin() as connection:
        # What is dead stays where it is.
        await connection.execute(
            sa.text("ALTER TABLE processed_messages SET (autovacuum_enabled = false)")
        )
    yield engine
    await engine.dispose()


async def fill(engine: AsyncEngine, consumer: str, *, days: int, rows: int) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(_FILL, (consumer, days, rows))


async def analyze(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("ANALYZE processed_messages"))


async def purged_at_a_cost(engine: AsyncEngine, consumer: str) -> tuple[int, int]:
    """The rows of one more batch, and how many the next one reads."""
    with recorded(engine) as statements:
        rows = await Retention(engine, consumer, older_than=MONTH, horizon=MONTH).batch()
    async with engine.connect() as connection:
        return rows, await rows_read(connection, statements[-1])


async def test_a_purge_reads_only_the_rows_that_it_deletes(engine):
    await fill(engine, "etl", days=40, rows=3 * PURGE_LIMIT)
    await fill(engine, "etl", days=1, rows=MANY)
    await fill(engine, "audit", days=40, rows=MANY)
    await fill(engine, "young", days=1, rows=MANY)
    await analyze(engine)

    rows, looked_at = await purged_at_a_cost(engine, "etl")
    assert rows == PURGE_LIMIT
    assert looked_at <= 2 * PURGE_LIMIT  # to lock them, and to delete them

    # One whose rows are all young, beside others with old ones.
    assert await purged_at_a_cost(engine, "young") == (0, 0)


async def test_a_batch_does_not_read_rows_that_earlier_batches_have_deleted(engine):
    """An open snapshot keeps vacuum, and the index itself, from dropping the dead entries."""
    await fill(engine, "etl", days=40, rows=MANY)
    await analyze(engine)
    kept = Retention(engine, "etl", older_than=MONTH, horizon=MONTH)
    costs = []
    async with engine.connect() as old:
        await old.execution_options(isolation_level="REPEATABLE READ")
        await old.execute(sa.text("SELECT count(*) FROM processed_messages"))
        for _ in range(20):
            with recorded(engine) as statements:
                assert await kept.batch() == PURGE_LIMIT
            async with engine.connect() as connection:
                costs.append(await blocks_read(connection, statements[-1]))

    assert max(costs) - min(costs) < 50


async def test_a_purge_skips_locked_rows_and_deletes_them_later(engine):
    await fill(engine, "etl", days=40, rows=10)
    kept = Retention(engine, "etl", older_than=MONTH, horizon=MONTH)
    async with engine.begin() as holder:
        held = sa.text("SELECT 1 FROM processed_messages ORDER BY processed_at LIMIT 2 FOR UPDATE")
        await holder.execute(held)

        async with asyncio.timeout(10):
            assert await kept.batch() == 8

    assert await kept.batch() == 2


async def test_statistics_of_a_day_do_not_read_a_month(engine):
    await fill(engine, "etl", days=2, rows=MANY)
    await fill(engine, "etl", days=0, rows=50)

    async with engine.connect() as connection:
        with recorded(engine) as statements:
            await statistics(connection, "etl")
        [_, of_a_day] = statements
        assert await rows_read(connection, of_a_day) <= 100


async def test_on_sqlite_a_purge_reads_the_same_index(sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        with recorded(engine) as statements:
            await purge(connection, "etl", older_than=MONTH)
        text, parameters = statements[-1]
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
        steps = " | ".join(row.detail for row in plan)
    await engine.dispose()

    assert "processed_messages_consumer_processed_at (consumer=? AND processed_at<?)" in steps
    assert "SCAN processed_messages" not in steps
    assert "TEMP B-TREE" not in steps
