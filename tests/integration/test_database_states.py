"""
Processes and commands while Postgres answers, and refuses their statements.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

import outbox
from consumer import Message
from consumer.execution.decode import Attempt, decode_delivery
from consumer.execution.executor import BEFORE_ALL
from consumer.execution.transaction import HandlerSteps, transact
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler
from consumer.storage.dedup import Dedup
from outbox.database.engine import create_engine
from outbox.database.errors import may_pass
from outbox.errors import DatabaseUnavailable
from outbox.transports.delivery import Delivery
from tests.integration.test_consumer import a_message, publish
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.commands import CommandLine
from tests.support.deployment import Deployment
from tests.support.effects import effects
from tests.support.eventually import eventually


async def commit(deployment: Deployment, count: int) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(*(an_event() for _ in range(count))))


async def test_processes_wait_while_the_database_accepts_no_connections(
    postgres_server, postgres_url, rabbitmq_url, tmp_path
):
    name = make_url(postgres_url).database or ""
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relay, consumer = await deployment.relay(), await deployment.consumer()
        await commit(deployment, 1)
        await deployment.applies(1)

        await postgres_server.freeze_database(name)
        await publish(rabbitmq_url, a_message(), a_message())
        for process in (relay, consumer):
            await process.wait_for_line("does not accept connections")
            await process.wait_for_line("55000")
        commands = CommandLine(tmp_path, MQ_DATABASE_URL=postgres_url, MQ_BROKER_URL=rabbitmq_url)
        refused = [
            await commands.run(*command)
            for command in (("relay", "status"), ("relay", "dead", "list"), ("relay", "migrate"))
        ]
        await postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await deployment.engine.dispose()
        await commit(deployment, 5)
        await deployment.applies(8)

        assert [command.code for command in refused] == [3, 3, 3]
        for command in refused:
            assert command.err.startswith("error: ")
            assert "the database does not accept connections" in command.err
            assert "Traceback" not in command.err
        assert {row["attempt"] for row in await deployment.rows(effects)} == {1}
        assert await deployment.dead() == []
        assert [await process.terminate() for process in (relay, consumer)] == [0, 0]


async def rename(engine: AsyncEngine, old: str, new: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")


async def test_processes_wait_while_their_tables_are_missing(postgres_url, rabbitmq_url, tmp_path):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relay, consumer = await deployment.relay(), await deployment.consumer()
        await commit(deployment, 1)
        await deployment.applies(1)

        await rename(deployment.engine, "processed_messages", "p")
        await commit(deployment, 3)
        await consumer.wait_for_line("a table, column or function is missing")
        await rename(deployment.engine, "outbox", "o")
        await relay.wait_for_line("a table, column or function is missing")
        await relay.wait_for_line("background_work_failed")

        await rename(deployment.engine, "o", "outbox")
        await rename(deployment.engine, "p", "processed_messages")
        await commit(deployment, 1)
        await deployment.applies(5)
        await eventually(deployment.is_drained)

        assert {row["attempt"] for row in await deployment.rows(effects)} == {1}
        assert await deployment.dead() == []
        assert [await process.terminate() for process in (relay, consumer)] == [0, 0]


WAITED_FOR = ["53000", "53100", "53300", "58000", "58030", "XX001", "XX002", "F0000", "28000"]
REPEATED = ["40001", "40P01", "55P03", "55006", "57014", "53200", "55000", "XX000", "HV00N"]
FAILED = ["22012", "23505", "42P01", "42501", "0A000", "P0001", "54001", "AB123", "25P02"]


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


async def outcome(engine: AsyncEngine, state: str, *, raised_by: AsyncEngine | None = None) -> Any:
    """
    The outcome of a handler whose statement Postgres ends with *state*.

    The statement is one of the handler's session, or of the engine *raised_by*.
    """

    async def handle(_message: Message[object], session: AsyncSession) -> None:
        raising = f"DO $$ BEGIN RAISE EXCEPTION '{LEAK_MARKER}' USING ERRCODE = '{state}'; END $$"
        if raised_by is None:
            await session.execute(sa.text(raising))
        else:
            async with raised_by.connect() as connection:
                await connection.execute(sa.text(raising))

    handler = Handler("test.happened", handle)
    delivery = Delivery(on_the_wire(an_event(), exchange="main"), 1, redelivered=False)
    attempt = decode_delivery(delivery, handler, now=datetime.now(UTC), oldest=BEFORE_ALL)
    assert isinstance(attempt, Attempt)
    try:
        return await transact(
            UnitOfWorkFactory(engine), HandlerSteps(handler, [attempt], dedup=Dedup("etl"))
        )
    except DatabaseUnavailable as error:
        return error


async def test_the_state_of_a_handlers_statement_decides_whether_the_attempt_counts(engine):
    outcomes = {state: await outcome(engine, state) for state in (*WAITED_FOR, *REPEATED, *FAILED)}

    for state in WAITED_FOR:
        assert isinstance(outcomes[state], DatabaseUnavailable), state
        assert LEAK_MARKER not in str(outcomes[state])
    for state in (*REPEATED, *FAILED):
        assert isinstance(outcomes[state], DBAPIError), state
        assert may_pass(outcomes[state]) is (state in REPEATED), state


async def test_a_full_disk_of_another_database_is_tried_a_few_times_and_then_a_failure(
    engine, postgres_url
):
    other = create_async_engine(make_url(postgres_url).set(drivername="postgresql+asyncpg"))

    error = await outcome(engine, "53100", raised_by=other)

    assert isinstance(error, DBAPIError)
    assert may_pass(error)
    await other.dispose()
