"""
The sessions of Postgres that a relay keeps between its claims.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from outbox.database.postgres_connection import PostgresConnection
from outbox.errors import DatabaseUnavailable
from relay.storage.postgres import PostgresStore
from relay.verdict import Delete
from tests.support.breakpoints import BreakpointProxy
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.relay_stores import postgres_store
from tests.support.wire_protocols import statement

SESSIONS = sa.text("SELECT pid, state FROM pg_stat_activity WHERE application_name = 'relay'")
END_SESSIONS = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'relay'"
)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="relay")
    yield engine
    await engine.dispose()


@pytest.fixture
async def store(engine: AsyncEngine) -> AsyncIterator[PostgresStore]:
    async with postgres_store(engine) as store:
        yield store


async def sessions(server: AsyncEngine) -> dict[int, str]:
    async with server.connect() as connection:
        return {row.pid: row.state for row in await connection.execute(SESSIONS)}


async def take_one(store: PostgresStore, *, settles: bool = True) -> int:
    """Claim a row and delete it, if *settles*; how many there were."""
    async with store.claim(limit=1, size=1_000) as claim:
        if settles:
            await claim.settle([Delete(row) for row in claim.rows])
        return len(claim.rows)


async def test_claims_one_after_another_use_the_same_session_and_leave_it_idle(store, server):
    assert await take_one(store) == 0
    [first] = await sessions(server)

    assert await take_one(store) == 0

    async def is_idle() -> bool:
        return await sessions(server) == {first: "idle"}

    await eventually(is_idle)


async def test_sessions_that_the_server_ends_between_claims_are_replaced_without_an_error(
    store, server
):
    async with store.claim(limit=1, size=1_000):
        await take_one(store)
    kept = list(store._sessions._idle)
    async with server.begin() as connection:
        await connection.execute(END_SESSIONS)
        await connection.execute(outbox.insert(an_event()))
    await eventually(lambda: all(not each.usable for each in kept))

    assert await take_one(store) == 1


@pytest.mark.parametrize("request_", ["BEGIN", "DELETE", "ROLLBACK"])
async def test_a_session_whose_request_was_cancelled_is_not_used_again(
    store, server, engine, monkeypatch, request_
):
    """The server may execute the request later, in the transaction of another claim."""
    await take_one(store)
    [first] = await sessions(server)
    async with server.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
    original = PostgresConnection.execute

    async def cancelled(self: Any, query: str, *values: Any, **options: Any) -> str:
        if query.startswith(request_):
            raise asyncio.CancelledError
        return await original(self, query, *values, **options)

    monkeypatch.setattr(PostgresConnection, "execute", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await take_one(store, settles=request_ == "DELETE")
    monkeypatch.undo()

    assert await take_one(store) == 1
    assert first not in await sessions(server)
    await store.close()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_session_that_cannot_be_set_up_returns_to_the_pool(store, engine):
    store._sessions._settings = sa.select(sa.literal(1) / sa.cast(sa.literal(0), sa.Integer))

    with pytest.raises(DatabaseUnavailable) as error:
        await take_one(store)

    assert engine.pool.checkedout() == 0
    assert "22012" in str(error.value)


async def test_a_claim_that_is_cancelled_twice_leaves_no_transaction_open(server, postgres_url):
    """The second time it waits for the statement that keeps its session alive."""
    async with server.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
    async with BreakpointProxy(postgres_url) as proxy:
        engine = create_engine(make_url(proxy.url), pool_size=1, application_name="relay")
        async with postgres_store(engine, publish_timeout=timedelta(seconds=1)) as store:
            kept_alive = proxy.before(statement("SELECT $1::INTEGER"))
            claimed = asyncio.Event()

            async def claim_for_long() -> None:
                async with store.claim(limit=1, size=1_000):
                    claimed.set()
                    await asyncio.Event().wait()

            claiming = asyncio.create_task(claim_for_long())
            await claimed.wait()
            await kept_alive.wait_until_hit()
            for _ in range(2):
                claiming.cancel()
                await asyncio.wait({claiming}, timeout=0.1)
            kept_alive.release()
            await asyncio.wait({claiming})

            async def none_is_open() -> bool:
                return all(state == "idle" for state in (await sessions(server)).values())

            await eventually(none_is_open)
            assert await take_one(store) == 1
        await engine.dispose()


async def test_a_closed_store_has_given_its_sessions_back(store, engine):
    async with store.claim(limit=1, size=1_000), store.claim(limit=1, size=1_000):
        assert engine.pool.checkedout() == 2

    await store.close()

    assert engine.pool.checkedout() == 0
