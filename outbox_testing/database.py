"""
The database of a test: a migrated SQLite file of its own, or the one that the test names.
"""

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumer.storage.tables import parked_messages, processed_messages
from outbox.database import location, migrate
from outbox.database.engine import DEFERRED, create_engine
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError
from outbox.tables import outbox
from outbox.written_table import written

_BUSY_SECONDS = 0.5
"""How long a writer of SQLite waits: only the test itself can hold the lock."""

_STORED_TIMES = (
    outbox.c.not_before,
    parked_messages.c.due_at,
    processed_messages.c.lease_until,
)

_TURN = threading.Lock()


def url_of(database: str | Path | URL | AsyncEngine) -> URL:
    """
    The URL of *database*: a URL, an engine, or the path of a SQLite file.

    Raises ConfigurationError for another text, and for a database in memory.
    """
    if isinstance(database, AsyncEngine):
        database = database.url
    if isinstance(database, str) and "://" in database:
        try:
            database = make_url(database)
        except (ArgumentError, ValueError):
            raise ConfigurationError("database: is not a URL") from None
    url = database if isinstance(database, URL) else sqlite_url(Path(database))
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise ConfigurationError("database: a SQLite database in memory cannot be shared")
    return url


def sqlite_url(file: Path) -> URL:
    """The URL of the SQLite *file*."""
    return URL.create("sqlite", database=str(file.absolute()))


def create_file(file: Path) -> None:
    """
    Create *file*, unless it exists, as a SQLite database with all tables.

    They are migrated once per process, and copied.
    """
    if file.exists():
        return
    file.touch(mode=0o600)
    with _TURN:  # of threads: Alembic keeps its state in globals
        file.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "outbox.db"
        migrate.upgrade(str(sqlite_url(file)))
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


@asynccontextmanager
async def opened(
    url: URL, tables: Sequence[sa.MetaData], *, schema: str | None
) -> AsyncIterator[AsyncEngine]:
    """
    The database at *url*, with the tables of the product in *schema*, and those of *tables*.

    A database without the product's tables is migrated, and a SQLite file created. Raises
    SchemaMismatch if they are those of another version, and DatabaseUnavailable.
    """
    if url.get_backend_name() == "sqlite":
        await asyncio.to_thread(create_file, Path(url.database or ""))
    engine = create_engine(url, pool_size=20, application_name="outbox test", schema=schema)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _wait_for_a_short_time)
    try:
        await _migrate_if_empty(engine, url, schema)
        await migrate.verify(engine)
        if tables:
            async with engine.begin() as connection:
                for each in tables:
                    await connection.run_sync(each.create_all)
        yield _with_schema_of_producer(engine)
    finally:
        await engine.dispose()


def _with_schema_of_producer(engine: AsyncEngine) -> AsyncEngine:
    """*engine*, which on SQLite ignores `outbox.use_schema`: a file has no schemas."""
    schema = written().schema
    if schema is None or engine.dialect.name != "sqlite":
        return engine
    return engine.execution_options(schema_translate_map={schema: None})


async def _migrate_if_empty(engine: AsyncEngine, url: URL, schema: str | None) -> None:
    with driver_errors_translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            found = await connection.run_sync(location.find)
    if found.revision is None:
        await asyncio.to_thread(_upgrade, url.render_as_string(hide_password=False), schema)


def _upgrade(url: str, schema: str | None) -> None:
    with _TURN:
        migrate.upgrade(url, schema=schema)


def _wait_for_a_short_time(connection: Any, _record: Any) -> None:
    connection.driver_connection.busy_seconds = _BUSY_SECONDS
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
    cursor.close()


async def let_pass(engine: AsyncEngine, duration: timedelta) -> None:
    """Move the stored times before which no process acts into the past, by *duration*."""
    with driver_errors_translated():
        async with engine.begin() as connection:
            for column in _STORED_TIMES:
                await _move(connection, column, duration)


async def _move(connection: AsyncConnection, column: sa.Column[Any], duration: timedelta) -> None:
    """Row by row: each database has arithmetic of its own, and a test has few rows."""
    table = column.table
    key = [*table.primary_key]
    rows = await connection.execute(sa.select(*key, column).where(column.is_not(None)))
    for *identity, value in rows.all():
        is_row = sa.and_(*(part == of for part, of in zip(key, identity, strict=True)))
        moved = {column.name: value - duration}
        await connection.execute(sa.update(table).where(is_row).values(moved))
