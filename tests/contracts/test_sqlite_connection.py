"""
The connection to a SQLite file: switches of threads, rows in parts, and waiting for a writer.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import sqlite_connection, sqlite_engine
from outbox.database.engine import NOT_DURABLE, create_engine
from outbox.database.sqlite_connection import LONGEST_PAUSE_SECONDS, ROWS_AT_ONCE

NUMBERS = sa.table("numbers", sa.column("n", sa.Integer))
MANY = 3 * ROWS_AT_ONCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a table of one column."""
    file = tmp_path / "file.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE numbers (n INTEGER UNIQUE)")
    return file


@pytest.fixture
async def engine(file):
    engine = create_engine(make_url(f"sqlite:///{file}"), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def numbers(engine: AsyncEngine) -> list[int]:
    """The numbers in the table."""
    numbers = list(range(MANY))
    async with engine.begin() as connection:
        await connection.execute(sa.insert(NUMBERS), [{"n": n} for n in numbers])
    return numbers


async def test_a_transaction_switches_threads_once_for_each_statement(engine, monkeypatch):
    async with engine.connect():
        pass
    calls: list[object] = []
    run = sqlite_connection.Connection._execute

    def counted(connection, function, *arguments, **options):
        calls.append(function)
        return run(connection, function, *arguments, **options)

    monkeypatch.setattr(sqlite_connection.Connection, "_execute", counted)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(NUMBERS).values(n=1))
        assert (await connection.execute(sa.select(NUMBERS))).all() == [(1,)]

    assert len(calls) == len(["BEGIN", "INSERT", "SELECT", "COMMIT"])


async def test_all_rows_are_read_however_many_they_are(engine, numbers):
    async with engine.connect() as connection:
        for limit in (0, 1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, MANY):
            found = await connection.scalars(sa.select(NUMBERS).order_by("n").limit(limit))

            assert found.all() == numbers[:limit]


async def test_a_result_may_be_read_in_parts_or_left(engine, numbers):
    async with engine.connect() as connection:
        result = await connection.stream_scalars(sa.select(NUMBERS).order_by("n"))
        parts = [part async for part in result.partitions(70)]
        assert [n for part in parts for n in part] == numbers

        left = await connection.stream_scalars(sa.select(NUMBERS).order_by("n"))
        assert await left.fetchmany(5) == numbers[:5]
        await left.close()

    async with engine.begin() as connection:
        assert (await connection.execute(sa.delete(NUMBERS))).rowcount == MANY


async def test_a_statement_that_fails_leaves_its_connection_usable(engine, numbers):
    async with engine.begin() as connection:
        with pytest.raises(sa.exc.IntegrityError):
            await connection.execute(sa.insert(NUMBERS).values(n=numbers[0]))
        await connection.execute(sa.insert(NUMBERS).values(n=-1))

    async with engine.connect() as connection:
        assert await connection.scalar(sa.select(sa.func.min(NUMBERS.c.n))) == -1


async def test_only_transactions_that_are_not_durable_do_not_wait_for_the_disk(engine):
    def modes() -> list[str]:
        return [each for each in statements if each.startswith(("PRAGMA sync", "COMMIT"))]

    statements: list[str] = []
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.set_trace_callback(statements.append)
    for options in ({}, NOT_DURABLE, NOT_DURABLE, {}, {}):
        async with engine.connect() as connection:
            await connection.execution_options(**options)
            await connection.execute(sa.insert(NUMBERS).values(n=len(statements)))
            await connection.commit()

    full, normal = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
    assert modes() == ["COMMIT", normal, "COMMIT", "COMMIT", full, "COMMIT", "COMMIT"]


async def test_a_writer_looks_often_whether_the_other_one_is_done(engine, file, monkeypatch):
    pauses: list[float] = []
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 20:
                other.execute("COMMIT")

        monkeypatch.setattr(sqlite_connection.time, "sleep", pause)
        async with engine.begin() as connection:
            await connection.execute(sa.insert(NUMBERS).values(n=1))

    assert len(pauses) == 20
    assert max(pauses) == LONGEST_PAUSE_SECONDS


async def test_a_writer_gives_up_after_some_time(engine, file, monkeypatch):
    monkeypatch.setattr(sqlite_engine, "BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            async with engine.begin():
                pass
        other.execute("ROLLBACK")

    async with engine.begin() as connection:
        await connection.execute(sa.insert(NUMBERS).values(n=1))
