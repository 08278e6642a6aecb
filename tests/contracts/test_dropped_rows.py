"""
Triggers of other programs that drop the rows that a consumer inserts, without an error.

Each row stands for a message that the consumer acks afterwards, so a dropped row would lose it.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Lease, OnLeaseExpired
from consumer.storage.begun import BegunDeliveries
from consumer.storage.dead_letters import write_dead_letter
from consumer.storage.dedup import Dedup
from consumer.storage.leases import Leases
from consumer.storage.parked import ParkedMessages
from outbox.errors import DatabaseUnavailable
from tests.contracts.test_dedup_store import an_envelope
from tests.contracts.test_parked import a_message

Insert = Callable[[AsyncEngine, AsyncSession], Awaitable[object]]

A_LEASE = Lease(timedelta(hours=1), OnLeaseExpired.RETRY)


async def complete_in_a_unit_of_work(engine: AsyncEngine, _session: AsyncSession) -> object:
    envelope = an_envelope()
    async with UnitOfWorkFactory(engine).begin() as work:
        entries = {envelope.idempotency_key: (envelope, 1)}
        return await work.record_completed(Dedup("etl"), entries)


async def fail(_engine: AsyncEngine, session: AsyncSession) -> object:
    return await Dedup("etl").record_failed(session, an_envelope(), attempt=1)


async def claim_a_lease(_engine: AsyncEngine, session: AsyncSession) -> object:
    return await Leases("etl").claim(session, an_envelope(), A_LEASE, owner=uuid4(), attempt=1)


async def dead_letter(_engine: AsyncEngine, session: AsyncSession) -> object:
    return await write_dead_letter(
        session, a_message(), source="etl", queue="q", reason="rejected", attempts=1
    )


async def park(_engine: AsyncEngine, session: AsyncSession) -> object:
    return await ParkedMessages("etl").park(
        session, a_message(), lane="a", attempts=1, wait=timedelta(0)
    )


async def begin(engine: AsyncEngine, _session: AsyncSession) -> object:
    return await BegunDeliveries("etl", async_sessionmaker(engine)).begin(["a", "b"])


async def begin_parked(engine: AsyncEngine, session: AsyncSession) -> object:
    return await BegunDeliveries("etl", async_sessionmaker(engine)).begin_parked(session, 1)


async def drop_rows_of(engine: AsyncEngine, table: str) -> None:
    statements = [
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        f"CREATE TRIGGER mine BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION mine()",
    ]
    if engine.dialect.name == "sqlite":
        ignored = "BEGIN SELECT RAISE(IGNORE); END"
        statements = [f"CREATE TRIGGER mine BEFORE INSERT ON {table} {ignored}"]
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("table", "insert"),
    [
        ("processed_messages", complete_in_a_unit_of_work),
        ("processed_messages", fail),
        ("processed_messages", claim_a_lease),
        ("dead_letters", dead_letter),
        ("parked_messages", park),
        ("begun_deliveries", begin),
        ("begun_deliveries", begin_parked),
    ],
)
async def test_a_row_that_a_trigger_drops_is_an_error_and_no_duplicate(
    engine: AsyncEngine, table: str, insert: Insert
):
    await drop_rows_of(engine, table)

    sessions = async_sessionmaker(engine)
    # A unit of work has its own transaction, and SQLite has one writer at a time.
    options = {"sqlite_begin": "DEFERRED"}
    async with sessions(bind=engine.execution_options(**options)) as session:
        with pytest.raises(DatabaseUnavailable, match=f"{table}: a trigger"):
            await insert(engine, session)
