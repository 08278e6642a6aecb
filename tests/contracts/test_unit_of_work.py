"""
The transaction of a handler, including handlers that misuse their session.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import registry

from consumer import Message
from consumer.execution.decode import Attempt, decode_delivery
from consumer.execution.executor import BEFORE_ALL
from consumer.execution.transaction import HandlerSteps, transact
from consumer.execution.unit_of_work import UnitOfWork, UnitOfWorkFactory
from consumer.handler import Handler
from consumer.storage.dedup import Dedup
from consumer.storage.tables import processed_messages
from outbox.database.engine import create_engine
from outbox.database.errors import is_unavailable
from outbox.database.postgres_connection import PostgresConnection
from outbox.errors import DatabaseUnavailable, TransactionEndedByHandler
from outbox.tables import dead_letters
from outbox.transports.delivery import Delivery
from outbox.wire.envelope import Envelope
from tests.support.builders import an_envelope, an_event, on_the_wire
from tests.support.eventually import eventually

DEDUP = Dedup("etl")
ROW = {"source": "etl", "reason": "test", "attempts": 1, "body": b""}


@pytest.fixture
def units(engine: AsyncEngine) -> UnitOfWorkFactory:
    return UnitOfWorkFactory(engine)


async def record(work: UnitOfWork, *envelopes: Envelope) -> set[str]:
    return await work.record_completed(
        DEDUP, {each.idempotency_key: (each, 1) for each in envelopes}
    )


async def write(work: UnitOfWork) -> None:
    await work.session.execute(sa.insert(dead_letters).values(**ROW))


async def rows(engine: AsyncEngine) -> tuple[int, int]:
    """How many records and effects have been committed."""
    async with engine.connect() as connection:
        return tuple(  # type: ignore[return-value]
            [
                await connection.scalar(sa.select(sa.func.count()).select_from(table))
                for table in (processed_messages, dead_letters)
            ]
        )


async def test_the_record_and_the_effects_are_committed_together(engine, units):
    async with units.begin() as work:
        assert await record(work, an_envelope())
        await write(work)
        assert work.is_open
        assert await rows_seen_by_others(engine) == (0, 0)
        await work.commit()

    assert await rows(engine) == (1, 1)


async def test_a_handler_reads_a_result_as_a_stream(units):
    """asyncpg before 0.32 sees no transaction here, and refuses the cursor."""
    numbers = sa.union_all(*[sa.select(sa.literal(number).label("number")) for number in range(9)])

    async with units.begin() as work:
        found = [row.number async for row in await work.session.stream(numbers)]
        await work.commit()

    assert found == list(range(9))


async def rows_seen_by_others(engine: AsyncEngine) -> tuple[int, int]:
    # SQLite allows one writing transaction at a time.
    return (0, 0) if engine.dialect.name == "sqlite" else await rows(engine)


async def test_a_message_recorded_before_is_found_again(units):
    old, new = an_envelope(), an_envelope()
    for envelopes, found in (([old], [old]), ([old, new], [new]), ([old, new], [])):
        async with units.begin() as work:
            assert await record(work, *envelopes) == {each.idempotency_key for each in found}
            await work.commit()


async def test_without_a_commit_everything_is_undone(engine, units):
    async with units.begin() as work:
        await record(work, an_envelope())
        await write(work)

    assert await rows(engine) == (0, 0)


async def test_an_error_in_the_block_is_raised_and_everything_is_undone(engine, units):
    with pytest.raises(ZeroDivisionError):
        await spoil(units)

    assert await rows(engine) == (0, 0)


@pytest.mark.parametrize("misdeed", ["rollback", "close"])
async def test_a_session_that_ends_its_transaction_is_noticed_and_harms_no_other(
    engine, units, misdeed
):
    async with units.begin() as work:
        await record(work, an_envelope())
        await write(work)
        await getattr(work.session, misdeed)()
        assert not work.is_open
        if engine.dialect.name == "sqlite" and misdeed == "close":
            return  # its connection is still in the transaction, so no other can begin
        async with units.begin() as other:
            await record(other, an_envelope())
            await other.commit()

    assert await rows(engine) == (1, 0)


async def commit(session: AsyncSession) -> None:
    await session.commit()


async def commit_below(session: AsyncSession) -> None:
    await session.run_sync(lambda session: session.commit())


@pytest.mark.parametrize("end", [commit, commit_below])
async def test_a_session_refuses_to_commit_its_transaction_which_goes_on(engine, units, end):
    """The records of other messages of the transaction would be committed as well."""
    await refuses(engine, units, end)


@pytest.mark.parametrize("by_driver", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "\n commit and chain",
        "END TRANSACTION",
        "abort",
        "ROLLBACK",
        "rollback work",
        "PREPARE TRANSACTION 'x'",
    ],
)
async def test_a_session_refuses_to_end_its_transaction_by_sql(
    engine, units, statement, by_driver
):
    async def execute(session: AsyncSession) -> None:
        if by_driver:
            await (await session.connection()).exec_driver_sql(statement)
        else:
            await session.execute(sa.text(statement))

    await refuses(engine, units, execute)


async def refuses(engine: AsyncEngine, units: UnitOfWorkFactory, end: Any) -> None:
    async with units.begin() as work:
        await record(work, an_envelope())
        with pytest.raises(TransactionEndedByHandler):
            await end(work.session)
        assert work.is_open
        await write(work)
        assert await rows_seen_by_others(engine) == (0, 0)
        await work.commit()

    assert await rows(engine) == (1, 1)


@pytest.mark.parametrize(
    "statement", ["ROLLBACK TO here", "ROLLBACK WORK TO SAVEPOINT here", "RELEASE here"]
)
async def test_a_session_ends_savepoints_by_sql(engine, units, statement):
    if engine.dialect.name == "sqlite" and "WORK" in statement:
        return  # it has no such word
    async with units.begin() as work:
        await record(work, an_envelope())
        await work.session.execute(sa.text("SAVEPOINT here"))
        await write(work)
        await work.session.execute(sa.text(statement))
        await work.commit()

    assert await rows(engine) == (1, 1 if statement.startswith("RELEASE") else 0)


async def test_a_failed_statement_that_was_swallowed_makes_the_commit_fail(engine, units):
    if engine.dialect.name == "sqlite":
        return  # a failed statement undoes itself there, and nothing else
    async with units.begin() as work:
        await record(work, an_envelope())
        with pytest.raises(DBAPIError):
            await work.session.execute(sa.text("SELECT no_such_column FROM outbox"))
        with pytest.raises(DBAPIError):
            await work.commit()

    assert await rows(engine) == (0, 0)


async def test_a_savepoint_of_the_handler_works_as_it_should(engine, units):
    async with units.begin() as work:
        await record(work, an_envelope())
        savepoint = await work.session.begin_nested()
        await write(work)
        await savepoint.rollback()
        async with work.session.begin_nested():
            await write(work)
        assert work.is_open
        await work.commit()

    assert await rows(engine) == (1, 1)


async def spoil(units: UnitOfWorkFactory) -> None:
    async with units.begin() as work:
        await record(work, an_envelope())
        raise ZeroDivisionError


async def spoil_inside_of_a_savepoint(units: UnitOfWorkFactory) -> None:
    async with units.begin() as work:
        await work.savepoint()
        await record(work, an_envelope())
        raise ZeroDivisionError


async def lose_the_connection(engine: AsyncEngine, units: UnitOfWorkFactory) -> None:
    async with units.begin() as work:
        pid = await work.session.scalar(sa.text("SELECT pg_backend_pid()"))
        async with engine.connect() as other:
            await other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        await eventually(lambda: work.is_lost)
        await record(work, an_envelope())


async def lose_the_driver(units: UnitOfWorkFactory) -> None:
    async with units.begin() as work:
        await work.savepoint()
        connection = await work.session.connection()
        raw: Any = await connection.get_raw_connection()
        raw.driver_connection.terminate()
        assert (work.is_lost, work.is_open) == (True, False)
        await work.session.execute(sa.select(1))


async def test_a_record_made_in_a_savepoint_is_undone_with_it(engine, units):
    envelope = an_envelope()
    async with units.begin() as work:
        savepoint = await work.savepoint()
        await record(work, envelope)
        await savepoint.rollback()
        assert await record(work, envelope)
        await work.commit()

    async with units.begin() as work:
        savepoint = await work.savepoint()
        await record(work, an_envelope())
        await savepoint.rollback()
        await work.commit()
    assert await rows(engine) == (1, 0)


async def test_an_error_inside_of_a_savepoint_is_raised_as_it_is_and_everything_is_undone(
    engine, units
):
    with pytest.raises(ZeroDivisionError):
        await spoil_inside_of_a_savepoint(units)

    assert await rows(engine) == (0, 0)


async def test_a_savepoint_left_open_is_committed_with_the_rest(engine, units):
    async with units.begin() as work:
        await record(work, an_envelope())
        await work.savepoint()
        await write(work)
        await work.commit()

    assert await rows(engine) == (1, 1)


async def test_a_connection_that_was_ended_is_discarded(engine, units):
    if engine.dialect.name == "sqlite":
        return  # there is no server to end it
    with pytest.raises(DBAPIError) as lost:
        await lose_the_connection(engine, units)

    assert is_unavailable(lost.value)
    async with units.begin() as work:
        await record(work, an_envelope())
        await work.commit()
    assert await rows(engine) == (1, 0)


async def test_a_connection_that_was_ended_inside_a_savepoint_is_unavailable(engine, units):
    """The driver gives it up after an error of its own; then it has no state to ask for."""
    if engine.dialect.name == "sqlite":
        return  # it has no connection of a driver of its own
    with pytest.raises(DBAPIError) as lost:
        await lose_the_driver(units)

    assert is_unavailable(lost.value)
    assert engine.pool.checkedout() == 0


async def test_a_cancelled_attempt_leaves_no_transaction_behind(engine, units):
    begun = asyncio.Event()

    async def hang() -> None:
        async with units.begin() as work:
            await record(work, an_envelope())
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})

    assert await rows(engine) == (0, 0)
    async with units.begin() as work:
        assert await record(work, an_envelope())


async def test_a_connection_whose_begin_was_cancelled_is_not_used_again(
    engine, units, monkeypatch
):
    """The server may execute the BEGIN once the pool has the connection."""
    if engine.dialect.name == "sqlite":
        return  # it has no connection of a driver of its own
    first = await pid_of(engine)
    original = PostgresConnection.execute

    async def cancelled_begin(self: Any, query: str, *args: Any, **options: Any) -> str:
        if query.startswith("BEGIN ISOLATION"):
            raise asyncio.CancelledError
        return await original(self, query, *args, **options)

    monkeypatch.setattr(PostgresConnection, "execute", cancelled_begin)
    with pytest.raises(asyncio.CancelledError):
        async with units.begin():
            raise AssertionError("it has not begun")
    monkeypatch.undo()

    assert await pid_of(engine) != first


async def pid_of(engine: AsyncEngine) -> int | None:
    """The process of the server behind the connection that the pool gives out next."""
    async with engine.connect() as connection:
        return await connection.scalar(sa.text("SELECT pg_backend_pid()"))


class Letter:
    """A row of `dead_letters` that is written by the commit."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


registry().map_imperatively(Letter, dead_letters)


async def leave_no_room(engine: AsyncEngine) -> None:
    """Make the database refuse rows of `dead_letters`; Postgres does so at the COMMIT."""
    async with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            pages = await connection.scalar(sa.text("PRAGMA page_count"))
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            return
        await connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON dead_letters"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


async def test_a_commit_that_fails_on_a_full_disk_is_no_failure_of_the_handler(
    database_url,
):
    engine = create_engine(make_url(database_url), pool_size=1, application_name="test")
    await leave_no_room(engine)

    async def handle(_message: Message[dict], session: AsyncSession) -> None:
        session.add(Letter(**ROW | {"body": b"x" * 100_000}))

    handler = Handler("test.happened", handle)
    delivery = Delivery(on_the_wire(an_event(), exchange="main"), 1, redelivered=False)
    attempt = decode_delivery(delivery, handler, now=datetime.now(UTC), oldest=BEFORE_ALL)
    assert isinstance(attempt, Attempt)

    with pytest.raises(DatabaseUnavailable, match=r"53100|SQLITE_FULL"):
        await transact(UnitOfWorkFactory(engine), HandlerSteps(handler, [attempt], dedup=DEDUP))

    assert await rows(engine) == (0, 0)
    await engine.dispose()
