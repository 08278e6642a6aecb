"""
A database that ends sessions, crashes, has no free connection, or sends no reply to a COMMIT.
"""

from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.reliability import process_faults, server_faults
from tests.reliability.fault_run import FaultRun
from tests.reliability.figures import figures
from tests.reliability.history import read

pytestmark = [pytest.mark.selection, pytest.mark.timeout(300)]

RAISES_AT_RANDOM = """
CREATE FUNCTION contend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.03 THEN
        PERFORM nextval('contention');
        RAISE EXCEPTION 'injected'
            USING ERRCODE = (ARRAY['40001', '40P01', '55P03'])[1 + floor(random() * 3)];
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$
"""
CONTENDED = {
    "effects": "BEFORE INSERT ON effects FOR EACH ROW",
    "processed_messages": "BEFORE INSERT ON processed_messages FOR EACH ROW",
    "outbox": "BEFORE DELETE ON outbox FOR EACH STATEMENT",
    "uploads": "BEFORE INSERT ON uploads FOR EACH STATEMENT",
}


async def test_sessions_ended_at_random_lose_no_event(environment, tmp_path):
    """F15: pg_terminate_backend, of half of all sessions, ten times."""
    async with FaultRun(environment, tmp_path) as run:
        for _ in range(10):
            async with server_faults.sessions_ended(run, share=0.5):
                pass
            await run.makes_progress(20)


async def test_repeated_crashes_of_postgres_lose_no_event(environment, tmp_path):
    """F15: an immediate shutdown and a start, twice."""
    async with FaultRun(environment, tmp_path) as run:
        for _ in range(2):
            await run.makes_progress()
            async with server_faults.postgres_crashed(run):
                await run.wait(1)
        await run.makes_progress()


async def test_processes_wait_for_a_postgres_without_free_connections(environment, tmp_path):
    """F15: other clients take every free connection for some seconds."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with run.record_fault("no connection left"), AsyncExitStack() as hoard:
            await take_all(run, hoard)
            for proxy in run.proxies.named.values():
                proxy.reset()
            await take_all(run, hoard)
            await run.wait(4)
        await run.makes_progress()


async def take_all(run: FaultRun, hoard: AsyncExitStack) -> None:
    try:
        while True:
            await hoard.enter_async_context(run.environment.postgres.connection())
    except asyncpg.TooManyConnectionsError:
        return


@pytest.mark.parametrize("proxy", ["relay_database", "consumer_database", "producer_database"])
async def test_a_commit_without_a_reply_causes_no_second_effect(environment, tmp_path, proxy):
    """F16: the proxy forwards COMMIT, and cuts before the reply, five times."""
    async with FaultRun(environment, tmp_path) as run:
        for _ in range(5):
            async with process_faults.commit_unanswered(run, getattr(run.proxies, proxy)):
                pass
            await run.makes_progress(20)

    assert sum(figures(read(run.history.path)).faults.values()) == 5


async def test_contention_in_the_database_counts_as_no_failure(environment, tmp_path):
    """F18: serialization failures, deadlocks and lock timeouts, injected at random."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with (
            run.record_fault("contention"),
            environment.postgres.connection(environment.database) as connection,
        ):
            await connection.execute("CREATE SEQUENCE contention")
            await connection.execute(RAISES_AT_RANDOM)
            for where in CONTENDED.values():  # one by one, so that none fails
                await connection.execute(
                    f"CREATE TRIGGER contend {where} EXECUTE FUNCTION contend()"
                )
            await run.makes_progress(1000, within=90)
            for table in CONTENDED:
                await connection.execute(f"DROP TRIGGER contend ON {table}")
            assert await connection.fetchval("SELECT last_value FROM contention") >= 10
        await run.makes_progress()
