"""
Lost connections to Postgres of which the driver has read the server's last message only.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from consumer.execution.unit_of_work import UnitOfWorkFactory
from outbox.database.engine import create_engine
from outbox.database.errors import driver_errors_translated, is_unavailable
from outbox.errors import DatabaseUnavailable
from relay.storage.postgres_notify import PostgresWakeup
from relay.verdict import Delete
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.relay_stores import postgres_store

NAME = "loses"
BACKENDS = sa.text(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{NAME}'")
END_BACKENDS = sa.text(
    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{NAME}'"
)


class LastWords(Proxy):
    """A proxy that passes on the last message of a server, and not the end of the connection."""

    async def _over(self, *copies: "asyncio.Task[Any]") -> None:
        await asyncio.wait(copies)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with LastWords(postgres_url) as proxy:
        engine = create_engine(make_url(proxy.url), pool_size=1, application_name=NAME)
        yield engine
        await proxy.cut()
        await engine.dispose()


async def end_backends(server: AsyncEngine) -> None:
    async def gone() -> bool:
        async with server.connect() as connection:
            return not (await connection.execute(BACKENDS)).all()

    async with server.connect() as connection:
        assert (await connection.execute(END_BACKENDS)).all()
    await eventually(gone)


async def answers(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        return bool(await connection.scalar(sa.select(1)) == 1)


async def test_a_session_that_the_server_has_ended_is_unavailable_and_the_next_one_works(
    engine, server
):
    async with engine.connect() as connection:
        await connection.execute(sa.select(1))
        await end_backends(server)
        with pytest.raises(DBAPIError) as lost:
            await connection.execute(sa.select(1))

    assert is_unavailable(lost.value)
    assert await answers(engine)


async def test_a_pooled_connection_whose_server_has_ended_it_costs_one_attempt(engine, server):
    assert await answers(engine)
    await end_backends(server)

    with pytest.raises(DatabaseUnavailable), driver_errors_translated():
        await answers(engine)
    assert await answers(engine)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_transaction_that_the_server_has_ended_is_unavailable_and_the_next_one_works(
    engine, server, begun
):
    units = UnitOfWorkFactory(engine)
    if begun:
        with pytest.raises(DBAPIError) as lost:
            async with units.begin():
                await end_backends(server)
    else:
        assert await answers(engine)
        await end_backends(server)
        with pytest.raises(DBAPIError) as lost:
            await units.begin().__aenter__()

    assert is_unavailable(lost.value)
    async with units.begin() as work:
        assert await work.session.scalar(sa.select(1)) == 1


async def test_a_wake_signal_whose_server_has_ended_the_session_is_unavailable(engine, server):
    assert await answers(engine)
    await end_backends(server)
    wakeup = PostgresWakeup(engine, notify=lambda: None)

    with pytest.raises(DatabaseUnavailable):
        await wakeup._listening()

    await wakeup.close()


async def test_a_session_that_ends_while_its_batch_is_published_is_an_unavailable_database(
    engine, server
):
    """The statement that keeps the session alive fails first, and the settlement after it."""
    errors: list[sa.engine.ExceptionContext] = []
    sa.event.listen(engine.sync_engine, "handle_error", errors.append)
    async with server.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
    async with postgres_store(engine, publish_timeout=timedelta(seconds=0.5)) as store:
        async with store.claim(limit=1, size=1_000) as claim:
            await end_backends(server)
            await eventually(lambda: errors)

            with pytest.raises(DatabaseUnavailable):
                await claim.settle([Delete(row) for row in claim.rows])

        async with store.claim(limit=1, size=1_000) as claim:
            assert len(claim.rows) == 1
