"""
The cost of a claim, counted and not timed: statements, and rows that Postgres reads.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import Priority
from relay.row import Row
from relay.storage.postgres import PostgresStore
from relay.verdict import Delete
from tests.support.query_plans import Statement, recorded, rows_read
from tests.support.relay_stores import claiming, postgres_store, without_vacuum

LIMIT, MANY = 200, 100_000


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with without_vacuum(postgres_url) as engine:
        yield engine


async def fill(
    engine: AsyncEngine,
    count: int,
    *,
    key: str = "NULL",
    later: str = "false",
    priority: str = "normal",
) -> None:
    """Insert *count* rows; *key* and *later* are SQL and may use the row's number `n`."""
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO outbox (event_id, type, routing_key, ordering_key, idempotency_key, body,"
            f" priority, not_before)"
            f" SELECT gen_random_uuid(), 't', 't', {key}, n::text, '{{}}', '{priority}',"
            f" CASE WHEN {later} THEN clock_timestamp() + '1 day'::interval END"
            f" FROM generate_series(1, {count}) n"
        )


async def claim(
    engine: AsyncEngine, store: PostgresStore
) -> tuple[Sequence[Row], list[Statement]]:
    with recorded(engine) as statements:
        async with store.claim(limit=LIMIT, size=1_000_000) as claim:
            pass
    return claim.rows, statements


async def cost(store: PostgresStore, statements: list[Statement]) -> int:
    """The rows that *statements* of a claim read, in a session that is prepared for claims."""
    async with claiming(store) as connection:
        return sum([await rows_read(connection, statement) for statement in statements])


async def rows_and_cost(engine: AsyncEngine) -> tuple[int, int]:
    async with postgres_store(engine) as store:
        rows, statements = await claim(engine, store)
        return len(rows), await cost(store, statements)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"key": "'one'", "later": "n = 1"}, id="a key that waits"),
        pytest.param({"later": "true"}, id="events for tomorrow"),
        pytest.param({"key": "n::text", "later": "true"}, id="keys that wait"),
        pytest.param({"priority": "low"}, id="events of low priority"),
    ],
)
async def test_a_hundred_thousand_rows_that_wait_cost_a_claim_nothing(engine, others):
    await fill(engine, 2 * LIMIT)
    await fill(engine, 50, key="'key-' || n")
    before = await rows_and_cost(engine)

    await fill(engine, MANY, **others)
    await fill(engine, 50, key="'new-' || n")
    rows, looked_at = await rows_and_cost(engine)

    assert rows == LIMIT
    assert looked_at < 5 * LIMIT
    assert looked_at <= 1.2 * before[1] + 4 * 50


@pytest.mark.parametrize("first", ["high", "normal", "low"])
async def test_a_full_claim_reads_no_row_of_another_priority(engine, first):
    await fill(engine, MANY // 5, priority="low")
    await fill(engine, MANY // 5, priority="normal")
    await fill(engine, MANY // 5, priority="high")
    async with postgres_store(engine) as store:
        turns = store.claimer.unkeyed._turns
        while turns.order()[0] != first:
            turns.claimed({}, waiting=[Priority(first)])
        rows, statements = await claim(engine, store)
        looked_at = await cost(store, statements)

    assert {row.values["priority"] for row in rows} == {first}
    assert len(rows) == LIMIT
    assert looked_at < 1.2 * LIMIT


async def test_a_claim_reads_each_row_without_a_key_once(engine):
    await fill(engine, 2 * LIMIT)

    rows, looked_at = await rows_and_cost(engine)

    assert rows == LIMIT
    assert looked_at < 1.2 * LIMIT


async def test_a_claim_on_a_hot_key_of_a_hundred_thousand_rows_reads_only_its_rows(engine):
    await fill(engine, 2 * LIMIT)
    await fill(engine, MANY, key="'hot'")
    await fill(engine, 50, key="'key-' || n")

    claimed: Counter[str | None] = Counter()
    async with postgres_store(engine) as store:
        for _ in range(10):  # keys have their turn, and their share grows with what is found
            rows, statements = await claim(engine, store)
            claimed.update(row.ordering_key for row in rows)
            assert await cost(store, statements) < 5 * LIMIT

    assert claimed.keys() == {None, "hot", *(f"key-{n}" for n in range(1, 51))}


async def test_a_claim_reads_no_more_of_a_backlog_than_it_takes(engine):
    await fill(engine, MANY)
    await fill(engine, MANY, key="'key-' || n")

    rows, looked_at = await rows_and_cost(engine)

    assert rows == LIMIT
    assert looked_at < 5 * LIMIT


@pytest.mark.parametrize("key", ["NULL", "'key-' || n", "'key-' || n % 50"])
async def test_a_claim_does_not_walk_over_rows_that_are_gone_while_an_old_snapshot_is_open(
    engine, key
):
    """Only its full scans do, and the clock stands still between them."""
    await fill(engine, 10, key=key)
    async with postgres_store(engine, clock=lambda: 0) as store, engine.connect() as old:
        await old.execution_options(isolation_level="REPEATABLE READ")
        await old.execute(sa.text("SELECT count(*) FROM outbox"))
        await settle_all(store)
        fresh = await pages_of_a_claim(engine, store, key)
        await fill(engine, MANY // 5, key=key.replace("key", "old"))
        await settle_all(store)

        assert await pages_of_a_claim(engine, store, key) < 3 * fresh + MANY // 200


async def settle_all(store: PostgresStore) -> None:
    """Claim and delete all rows; the last claim finds none."""
    found = True
    while found:
        async with store.claim(limit=1_000, size=1_000_000) as claim:
            await claim.settle([Delete(row) for row in claim.rows])
            found = bool(claim.rows)


async def pages_of_a_claim(engine: AsyncEngine, store: PostgresStore, key: str) -> int:
    """Insert a few rows, claim and delete them; how many pages the claim has touched."""
    await fill(engine, 10, key=key)
    with recorded(engine) as statements:
        async with store.claim(limit=LIMIT, size=1_000_000) as claim:
            assert len(claim.rows) == 10
    touched = 0
    async with claiming(store) as connection:
        for text, parameters in statements:
            result = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", parameters
            )
            plan = result.scalar_one()[0]["Plan"]
            touched += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    for mark in (*store.claimer.unkeyed.low_water.values(), store.claimer.keyed.low_water):
        mark._released = False
    await settle_all(store)
    return touched


async def statements_of_a_batch(engine: AsyncEngine) -> list[str]:
    async with postgres_store(engine) as store:
        async with store.claim(limit=LIMIT, size=1_000_000):
            pass  # prepares the session
        with recorded(engine) as statements:
            async with store.claim(limit=LIMIT, size=1_000_000) as claim:
                assert claim.rows
                await claim.settle([Delete(row) for row in claim.rows])
    return [text.split()[0] for text, _ in statements]


async def test_a_batch_takes_two_statements_and_two_more_if_it_has_keys(engine):
    await fill(engine, 10)
    assert await statements_of_a_batch(engine) == ["SELECT", "DELETE"]

    await fill(engine, 10, key="'key-' || n")
    assert await statements_of_a_batch(engine) == [
        *("SELECT", "WITH", "WITH", "DELETE"),
    ]
