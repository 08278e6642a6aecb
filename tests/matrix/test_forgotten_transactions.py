"""
Row F17: forgotten transactions, which keep vacuum from removing the rows that relays delete.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
from sqlalchemy.engine import make_url

import outbox
from tests.integration.test_claim_cost import fill, pages_of_a_claim, settle_all
from tests.support.builders import an_event
from tests.support.checked_deployment import CheckedDeployment
from tests.support.relay_stores import postgres_store

pytestmark = [pytest.mark.fault, pytest.mark.selection]

EVENTS, MANY = 20, 4_000
FORGOTTEN = "a forgotten transaction"


async def look(connection: asyncpg.Connection) -> None:
    """Begin a transaction, and take its snapshot."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.execute("SELECT count(*) FROM outbox")


@asynccontextmanager
async def forgotten(url: str, events: list[outbox.Event]) -> AsyncIterator[asyncpg.Connection]:
    """Insert *events* and prepare their commit; roll it back afterwards if it still exists."""
    connection = await connect(url)
    await connection.execute("BEGIN")
    for event in events:
        await connection.execute(
            "SELECT outbox_add($1, $2::text::jsonb, event_id => $3)",
            *(event.type, '{"number": 1}', event.id),
        )
    await connection.execute(f"PREPARE TRANSACTION '{FORGOTTEN}'")
    try:
        yield connection
    finally:
        with suppress(asyncpg.UndefinedObjectError):
            await connection.execute(f"ROLLBACK PREPARED '{FORGOTTEN}'")
        await connection.close()


async def pages(deployment: CheckedDeployment) -> int:
    """How many pages a claim of a few rows touches that continues behind earlier ones."""
    async with postgres_store(deployment.engine, clock=lambda: 0) as store:
        await fill(deployment.engine, 1)
        await settle_all(store)
        return await pages_of_a_claim(deployment.engine, store, "NULL")


async def connect(url: str) -> asyncpg.Connection:
    parts = make_url(url)
    return await asyncpg.connect(
        host=parts.host,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        database=parts.database,
    )


async def test_forgotten_transactions_lose_no_event_and_slow_no_claim(
    postgres_url, rabbitmq_url, tmp_path
):
    """F17: a long transaction, and one that was prepared and left behind."""
    prepared = [an_event() for _ in range(EVENTS)]
    async with (
        CheckedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment,
        forgotten(postgres_url, prepared) as connection,
    ):
        cheap = await pages(deployment)
        old = await connect(postgres_url)
        await look(old)

        relay, _ = await deployment.start_processes()
        with deployment.record_fault("forgotten transactions"):
            await deployment.produce(MANY)
            async with deployment.under_load():
                await deployment.makes_progress()
            await deployment.wait_until_settled()
            assert await relay.terminate() == 0
            deployment.expect_ended(relay)
            assert await pages(deployment) < 3 * cheap + MANY // 20
        await old.close()
        await connection.execute(f"COMMIT PREPARED '{FORGOTTEN}'")
        deployment.record_committed(prepared)
        await deployment.relay()
        await deployment.wait_until_settled()
        await deployment.check_guarantees()
