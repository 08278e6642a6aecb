"""
Transactions and slots that keep vacuum from removing rows, as metrics and `status` show them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
from sqlalchemy.engine import make_url

from outbox.database.engine import create_engine
from relay.storage.base import Backlog
from relay.storage.postgres import PostgresStore
from tests.support.commands import CommandLine
from tests.support.eventually import eventually
from tests.support.roles import documented_rights, execute, role

BEGIN_AND_WRITE = "BEGIN; SELECT outbox_add('test.happened', '{}')"
PREPARED = "a forgotten transaction"
NOTIFY_OFTEN = """
DO $$ BEGIN FOR i IN 1..30000 LOOP PERFORM pg_notify('news', i::text); COMMIT; END LOOP; END $$
"""


async def backlog(url: str) -> Backlog:
    engine = create_engine(make_url(url), pool_size=2, application_name="test")
    try:
        return await PostgresStore(engine, publish_timeout=timedelta(seconds=10)).backlog()
    finally:
        await engine.dispose()


@asynccontextmanager
async def session(url: str, statements: str) -> AsyncIterator[asyncpg.Connection]:
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(statements)
        yield connection
    finally:
        await connection.close()


async def grows(url: str) -> None:
    """Wait until the age of the oldest transaction grows, as *url* sees it."""
    before = (await backlog(url)).oldest_snapshot_age
    assert before

    async def is_older() -> bool:
        age = (await backlog(url)).oldest_snapshot_age
        return age is not None and age > before + timedelta(milliseconds=100)

    await eventually(is_older)


async def test_an_idle_transaction_that_has_only_written_has_an_age(postgres_url):
    """It has no snapshot: only the number of its transaction shows it."""
    async with session(postgres_url, BEGIN_AND_WRITE):
        await grows(postgres_url)
        await execute(postgres_url, *["SELECT outbox_add('test.happened', '{}')"] * 5)
        transactions = (await backlog(postgres_url)).oldest_snapshot_transactions
        assert transactions is not None
        assert transactions >= 5


async def test_an_idle_session_that_is_notified_has_no_old_transaction(postgres_url):
    """Postgres shows one for a moment, as old as the last statement of the session."""
    begin = asyncio.get_running_loop().time()
    store_engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    store = PostgresStore(store_engine, publish_timeout=timedelta(seconds=10))
    async with session(postgres_url, "LISTEN news"), session(postgres_url, "SELECT 1") as notifier:

        async def has_rested() -> bool:
            return asyncio.get_running_loop().time() > begin + 1

        await eventually(has_rested)
        notifying = asyncio.create_task(notifier.execute(NOTIFY_OFTEN))
        ages = [(await store.backlog()).oldest_snapshot_age for _ in range(200)]
        await notifying
    await store_engine.dispose()

    assert max(age for age in ages if age is not None) < timedelta(seconds=0.9)


async def test_a_prepared_transaction_has_an_age(postgres_url):
    async with session(postgres_url, f"{BEGIN_AND_WRITE}; PREPARE TRANSACTION '{PREPARED}'"):
        pass
    try:
        await grows(postgres_url)
    finally:
        await execute(postgres_url, f"ROLLBACK PREPARED '{PREPARED}'")


async def test_a_role_sees_how_long_others_are_open_only_with_the_right_to_statistics(
    postgres_url, embedded_broker_url, tmp_path
):
    async with (
        role(postgres_url, *documented_rights("relay")) as (name, url),
        session(postgres_url, BEGIN_AND_WRITE),
    ):
        run = CommandLine(tmp_path, MQ_DATABASE_URL=url, MQ_BROKER_URL=embedded_broker_url)
        assert (await run.run("relay", "topology")).code == 0
        blind = await backlog(url)
        assert blind.oldest_snapshot_age == timedelta(0)
        assert blind.oldest_snapshot_transactions
        checked = await run.run("relay", "check")
        assert checked.code == 0
        assert "warning: mq_oldest_snapshot_age_seconds: sees only" in checked.err

        await execute(postgres_url, f"GRANT pg_read_all_stats TO {name}")
        await grows(url)
        assert "mq_oldest_snapshot_age_seconds" not in (await run.run("relay", "check")).err
