"""
Broken databases: a process waits for some, and ends with a line for the operator on others.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.storage.dedup import Dedup
from outbox.database import migrate, sqlite_connection, sqlite_engine
from outbox.database.engine import create_engine
from outbox.database.errors import driver_errors_translated, may_pass
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OutboxError,
    SchemaMismatch,
)
from tests.support.builders import LEAK_MARKER, an_envelope, an_event
from tests.support.servers import PostgresServer


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


PASSING = {
    "53100": "no room on its disk",
    "53200": "out of memory",
    "53300": "too many connections",
    "57P01": "shut down by an operator",
    "57P02": "a crash",
    "57P03": "starting up",
    "08006": "connection failure",
    "25006": "a standby",
    "25P03": "idle in transaction",
    "28P01": "another password",
    "42501": "insufficient privilege",
    "40001": "serialization failure",
    "40P01": "deadlock",
    "55P03": "lock not available",
    "57014": "statement timeout",
}
OF_POOLERS = {"26000": "a prepared statement is missing", "42P05": "it is there already"}
LASTING = {
    "23505": "unique violation",
    "42P01": "no such table",
    "22000": "data exception",
}


def raising(state: str) -> str:
    """A statement that Postgres ends with the SQLSTATE *state*."""
    return f"DO $$ BEGIN RAISE EXCEPTION '{LEAK_MARKER}' USING ERRCODE = '{state}'; END $$"


async def answer(engine: AsyncEngine, state: str) -> Exception | None:
    """The error for a statement of the process that Postgres ends with *state*."""
    try:
        with driver_errors_translated():
            async with engine.connect() as connection:
                await connection.exec_driver_sql(raising(state))
    except (OutboxError, DBAPIError) as error:
        return error
    return None


async def test_a_temporary_error_of_postgres_is_waited_for_and_only_its_code_is_shown(engine):
    answers = {state: await answer(engine, state) for state in PASSING}

    for state, error in answers.items():
        assert isinstance(error, DatabaseUnavailable), PASSING[state]
        assert state in str(error)
        assert LEAK_MARKER not in str(error) + repr(error)
        assert error.__cause__ is None


async def test_statements_that_a_pooler_mixes_up_are_a_setting_to_fix(engine):
    answers = {state: await answer(engine, state) for state in OF_POOLERS}

    for state, error in answers.items():
        assert isinstance(error, DatabaseUnavailable), OF_POOLERS[state]
        assert str(error).startswith("MQ_DATABASE_URL: ")
        assert "pgbouncer" in str(error)
        assert LEAK_MARKER not in str(error)


async def test_a_permanent_error_of_postgres_is_not_waited_for(engine):
    """Raised by a handler's statement; for one of the process, an operator may repair it."""
    for state, name in LASTING.items():
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(raising(state))

        assert not may_pass(caught.value), name
        assert isinstance(await answer(engine, state), DatabaseUnavailable), name


@asynccontextmanager
async def only_reading(server: PostgresServer, engine: AsyncEngine) -> AsyncIterator[None]:
    """Make new sessions of the database read-only, like those of a standby."""
    name = engine.url.database
    setting = "default_transaction_read_only"
    await server.execute(f'ALTER DATABASE "{name}" SET {setting} = on')
    yield
    await server.execute(f'ALTER DATABASE "{name}" RESET {setting}')


async def insert(engine: AsyncEngine) -> None:
    with driver_errors_translated():
        async with engine.begin() as connection:
            await connection.execute(outbox.insert(an_event(payload=LEAK_MARKER)))


async def write_as_a_handler(engine: AsyncEngine) -> None:
    with driver_errors_translated():
        async with UnitOfWorkFactory(engine).begin() as work:
            await work.session.execute(outbox.insert(an_event(payload=LEAK_MARKER)))


async def record(engine: AsyncEngine) -> None:
    envelope = an_envelope()
    with driver_errors_translated():
        async with UnitOfWorkFactory(engine).begin() as work:
            await work.record_completed(Dedup("etl"), {envelope.idempotency_key: (envelope, 1)})


@pytest.mark.parametrize("write", [insert, write_as_a_handler, record])
async def test_a_read_only_session_is_replaced_by_one_that_may_write(
    engine, postgres_server, write
):
    """The server was a standby: the session stays read-only, and a new one asks again."""
    async with only_reading(postgres_server, engine):
        with pytest.raises(DatabaseUnavailable, match="25006") as caught:
            await write(engine)

    assert LEAK_MARKER not in str(caught.value)
    await write(engine)


@pytest.fixture
async def file(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    monkeypatch.setattr(sqlite_connection.Connection, "busy_seconds", 0.05)
    engine = create_engine(make_url(sqlite_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


async def test_a_locked_sqlite_file_is_waited_for(file, monkeypatch):
    monkeypatch.setattr(sqlite_engine, "BUSY_SECONDS", 0.1)
    async with file.begin():
        with pytest.raises(DatabaseUnavailable) as caught:
            await insert(file)

    assert LEAK_MARKER not in str(caught.value)
    await insert(file)


async def test_a_disk_without_room_for_a_sqlite_file_is_waited_for(file):
    await insert(file)
    body = LEAK_MARKER.encode() * 40_000
    async with file.connect() as connection:
        pages = await connection.scalar(sa.text("PRAGMA page_count"))
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with (
            pytest.raises(DatabaseUnavailable, match="SQLITE_FULL") as caught,
            driver_errors_translated(),
        ):
            await connection.execute(
                outbox.insert(an_event(payload=body, content_type="text/plain"))
            )

        await connection.rollback()
        await connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        await connection.execute(outbox.insert(an_event(payload=body, content_type="text/plain")))

    assert LEAK_MARKER not in str(caught.value)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_CORRUPT])
def test_a_disk_that_cannot_be_read_is_waited_for_and_only_its_code_is_shown(code):
    error = sqlite3.OperationalError(LEAK_MARKER)
    error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_CODE"

    with (
        pytest.raises(DatabaseUnavailable, match="OperationalError SQLITE_CODE"),
        driver_errors_translated(),
    ):
        raise DBAPIError(None, None, error)


def test_a_table_that_is_missing_in_sqlite_is_waited_for_unless_a_handler_names_it():
    error = sqlite3.OperationalError("no such table")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_ERROR, "SQLITE_ERROR"

    assert not may_pass(DBAPIError(None, None, error))
    with pytest.raises(DatabaseUnavailable, match="missing"), driver_errors_translated():
        raise DBAPIError(None, None, error)


def make_another_file(path: Path) -> None:
    path.write_text(LEAK_MARKER * 100)


def damage_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))


@pytest.mark.parametrize("damage", [make_another_file, damage_pages])
async def test_a_file_that_is_no_database_is_a_line_that_names_the_setting(sqlite_url, damage):
    url = make_url(sqlite_url)
    damage(Path(url.database or ""))
    engine = create_engine(url, pool_size=1, application_name="test")

    with pytest.raises(ConfigurationError, match="MQ_DATABASE_URL") as caught:
        await migrate.verify(engine)
    with pytest.raises(ConfigurationError, match="MQ_DATABASE_URL"):
        await asyncio.to_thread(migrate.upgrade, sqlite_url)

    assert LEAK_MARKER not in str(caught.value)
    await engine.dispose()


@pytest.mark.parametrize(
    ("revision", "problem"),
    [
        ("0001", r"0001 instead of \d+: run `relay migrate`"),
        ("9999", "created it, and only programs from revision 9999 on may work on it"),
    ],
)
async def test_a_schema_of_another_version_is_a_line_with_the_remedy(engine, revision, problem):
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            f"UPDATE {migrate.VERSION_TABLE} SET version_num = '{revision}'"
        )
        await connection.exec_driver_sql(
            f"UPDATE outbox_compatibility SET oldest_revision = '{revision}'"
        )

    with pytest.raises(SchemaMismatch, match=problem):
        await migrate.verify(engine)
