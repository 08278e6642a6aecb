"""
The database engine for a SQLite file.

It uses WAL and synchronous FULL. Transactions begin IMMEDIATE, so that two writers wait for each
other instead of failing when they upgrade from a read lock to the write lock.
"""

import os
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

BUSY_SECONDS = 30
"""Seconds that a SQLite writer waits for another one."""


def sqlite_engine(url: URL, *, pool_size: int) -> AsyncEngine:
    """
    Return an engine for the file of *url*.

    Transactions begin IMMEDIATE unless the execution option `sqlite_begin` says otherwise.
    """
    if url.database:
        # The file contains health data. SQLite gives -wal and -shm the same permissions.
        with suppress(OSError):
            os.close(os.open(url.database, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS},
        hide_parameters=True,
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # Otherwise the driver begins transactions itself, and only before the first write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
