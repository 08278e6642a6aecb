"""
The cost of measuring the outbox by state, counted and not timed.
"""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from relay.storage.base import Backlog
from tests.integration.test_claim_cost import fill
from tests.support.query_plans import Statement, recorded, rows_read
from tests.support.relay_stores import postgres_store, without_vacuum

LIMIT, MANY = 500, 10_000


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with without_vacuum(postgres_url) as engine:
        yield engine


async def measure(engine: AsyncEngine) -> tuple[Backlog, list[Statement]]:
    async with postgres_store(engine) as store:
        with recorded(engine) as statements:
            backlog = await store.backlog(limit=LIMIT)
    return backlog, statements


async def cost(engine: AsyncEngine, statements: list[Statement]) -> int:
    """The rows that the measuring statement reads, with the planner as *statements* set it."""
    (planner, _), measuring = statements[0], statements[1]
    assert "enable_seqscan" in planner
    async with engine.connect() as connection:
        await connection.exec_driver_sql(planner)
        return await rows_read(connection, measuring)


async def test_a_measurement_reads_a_bounded_number_of_rows_whatever_the_outbox_holds(engine):
    await fill(engine, MANY)
    await fill(engine, MANY, key="'hot'", later="n = 1")
    await fill(engine, MANY, key="'key-' || n")
    await fill(engine, MANY, later="true")

    backlog, statements = await measure(engine)

    states = {group.state.value: (group.rows, group.exact) for group in backlog.events}
    assert states == {
        "ready": (LIMIT, False),
        "blocked": (LIMIT, False),
        "waiting": (LIMIT, False),
    }
    assert backlog.rows >= 3 * LIMIT
    # Three parts, and the first rows of the keys among them, each of which is read twice.
    assert await cost(engine, statements) <= 3 * LIMIT + 2 * LIMIT
    # The planner, the measurement, the estimate of all rows, and what vacuum has to do.
    assert len(statements) == 4


async def test_a_measurement_of_an_empty_outbox_reads_no_row_in_three_statements(engine):
    backlog, statements = await measure(engine)

    assert (backlog.rows, backlog.events) == (0, [])
    assert await cost(engine, statements) == 0
    assert len(statements) == 3
