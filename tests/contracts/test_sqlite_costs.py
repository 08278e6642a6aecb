"""
The cost of statements on SQLite with many rows, counted and not timed.

SQLite chooses plans by its version and by statistics; neither may lead to a scan of all rows.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from consumer.handler import Lease, OnLeaseExpired
from consumer.storage.dedup import Dedup
from consumer.storage.durations import record_durations
from consumer.storage.leases import Leases
from consumer.storage.purge import purge
from outbox.database.engine import create_engine
from relay.storage.sqlite import SqliteStore
from tests.support.builders import an_envelope

FEW, MANY, INSTRUCTIONS = 100, 20_000, 100
LIMIT = 20
MONTH = timedelta(days=30)

_OUTBOX = (
    "INSERT INTO outbox (event_id, type, routing_key, ordering_key, idempotency_key, body)"
    " SELECT printf('%032x', abs(random())), 'a', 'a', {key}, 'k' || random(), x'7b7d' FROM number"
)
_PROCESSED = (
    "INSERT INTO processed_messages"
    " (consumer, idempotency_key, message_id, type, status, processed_at)"
    " SELECT 'etl', 'k' || random(), printf('%032x', abs(random())), 't', 'completed',"
    " strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (n % 40) || ' days') FROM number"
)
_NUMBERS = (
    "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count}) "
)

Work = Callable[[AsyncEngine], Awaitable[object]]


@pytest.fixture
async def engine(sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


async def fill(engine: AsyncEngine, statement: str, count: int) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(_NUMBERS.format(count=count) + statement)


async def cost(engine: AsyncEngine, work: Work) -> int:
    """Hundreds of instructions that SQLite executes for *work*."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    await work(engine)  # once without counting, so that the schema has been read
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.set_progress_handler(step, INSTRUCTIONS)
    await work(engine)
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.set_progress_handler(None, 0)
    return steps


async def claim(engine: AsyncEngine) -> None:
    store = SqliteStore(engine)
    for _ in range(3):
        async with store.claim(limit=LIMIT, size=1_000_000) as claimed:
            assert len(claimed.rows) <= LIMIT
    store._relay_lock.close()


async def promote(engine: AsyncEngine) -> None:
    assert await SqliteStore(engine).promote() == 0


async def record(engine: AsyncEngine) -> None:
    envelopes = [an_envelope() for _ in range(LIMIT)]
    async with AsyncSession(engine) as session:
        found = await Dedup("etl").record_completed(
            session, {each.idempotency_key: (each, 1) for each in envelopes}
        )
    assert len(found) == LIMIT


async def lease(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        await Leases("etl").claim(
            session,
            an_envelope(),
            Lease(MONTH, OnLeaseExpired.RETRY),
            owner=an_envelope().id,
            attempt=1,
        )


async def write_durations(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        durations = {f"k{number}": timedelta(seconds=1) for number in range(LIMIT)}
        await record_durations(connection, "etl", durations)


async def purge_none(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert (await purge(connection, "etl", older_than=2 * MONTH)).rows == 0


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize(
    ("statement", "work"),
    [
        (_OUTBOX.format(key="NULL"), claim),
        (_OUTBOX.format(key="'one'"), claim),
        (_OUTBOX.format(key="'key-' || n"), claim),
        (_OUTBOX.format(key="CASE n % 2 WHEN 0 THEN 'key-' || (n % 7) END"), claim),
        (_OUTBOX.format(key="NULL"), promote),
        (_PROCESSED, record),
        (_PROCESSED, lease),
        (_PROCESSED, write_durations),
        (_PROCESSED, purge_none),
    ],
)
async def test_many_rows_cost_little_more_than_few(engine, statement, work, analysed):
    await fill(engine, statement, FEW)
    before = await cost(engine, work)

    await fill(engine, statement, MANY)
    if analysed:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("ANALYZE")

    assert await cost(engine, work) <= 1.5 * before + 10
