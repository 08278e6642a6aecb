"""
The database engine for a SQLite file.

It uses WAL and synchronous FULL. Transactions begin IMMEDIATE, so that two writers wait for each
other instead of failing when they upgrade from a read lock to the write lock.
"""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolResetState
from sqlalchemy.sql.compiler import InsertmanyvaluesSentinelOpts

from outbox.database import sqlite_connection
from outbox.database.json_value import json_value
from outbox.database.sqlite_connection import BUSY_SECONDS
from outbox.database.sqlite_file import real_file
from outbox.errors import SchemaMismatch

_USUAL = ("synchronous = FULL", "foreign_keys = ON")
_PRAGMAS = {"WAL": _USUAL, "DELETE": (*_USUAL, "secure_delete = ON")}
_TEXT = partial(str, encoding="utf-8", errors="surrogateescape")


def sqlite_engine(
    url: URL, *, pool_size: int, create: bool = True, journal: str = "WAL"
) -> AsyncEngine:
    """
    Return an engine for the file of *url*, and create the file if it is missing and *create*.

    Transactions begin IMMEDIATE unless the execution option `sqlite_begin` says otherwise. Their
    commits wait for the disk unless `sqlite_durable` is false, and they wait for other writers as
    long as `sqlite_busy_seconds` says. With the *journal* DELETE a commit waits for readers, and
    deleted values are overwritten.
    Raises ConfigurationError if the file may also be opened by a name in another place, and
    SchemaMismatch if it does not exist and is not created.
    """
    url = _with_file(url, create=create)
    # By its module: the instrumentation of OpenTelemetry puts another function there.
    engine = sa_asyncio.create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        connect_args={
            "timeout": BUSY_SECONDS,
            "check_same_thread": False,
            "async_creator_fn": sqlite_connection.connect,
        },
        hide_parameters=True,
        json_deserializer=json_value,
    )

    # One INSERT for many objects of a session whose ids the database assigns, as on Postgres. Else
    # SQLAlchemy sends one for each. SQLite assigns rising ids, and only one connection writes.
    engine.dialect.insertmanyvalues_implicit_sentinel = (
        InsertmanyvaluesSentinelOpts.ANY_AUTOINCREMENT
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # Otherwise the driver begins transactions itself, and only before the first write.
        connection.isolation_level = None
        # Other programs may store text that is not UTF-8. One such row must not hide the others.
        connection.driver_connection.text_factory = _TEXT
        cursor = connection.cursor()
        for pragma in (f"journal_mode = {journal}", *_PRAGMAS[journal]):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "reset")
    def _reset(connection: Any, _record: Any, state: PoolResetState) -> None:
        # SQLite keeps a transaction open whose COMMIT it refuses, for a deferred constraint.
        # SQLAlchemy takes it for ended, and the next user of the connection could not begin.
        if state.asyncio_safe and connection.driver_connection.in_transaction:
            connection.rollback()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        driver: Any = connection.connection.driver_connection
        driver.is_durable = options.get("sqlite_durable", True)
        driver.busy_seconds = options.get("sqlite_busy_seconds", BUSY_SECONDS)
        mode = options.get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _with_file(url: URL, *, create: bool) -> URL:
    """Return *url* with the one name of its file, which only its owner can read; see above."""
    if url.database and url.database != ":memory:":
        url = url.set(database=str(real_file(url.database, setting="MQ_DATABASE_URL")))
    if not create and url.database and not Path(url.database).exists():
        raise SchemaMismatch(
            f"the tables are missing, because there is no file {Path(url.database).absolute()}: "
            "run `relay migrate`"
        )
    if url.database:
        # The file contains health data. SQLite gives -wal and -shm the same permissions.
        # Only a new one: to close a file frees all locks of this process on it, also those of
        # other connections (sqlite.org/howtocorrupt.html, "Posix advisory locks canceled").
        with suppress(OSError):
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return url
