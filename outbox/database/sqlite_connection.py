"""
A connection of aiosqlite that switches threads once for a statement, and waits for other writers.

aiosqlite calls the thread of its connection for a cursor, for the statement, for its rows and for
the end of the cursor. Each of the four switches takes longer than a short statement.

A writer of SQLite that has to wait pauses for 1, 2, 5, 10 and up to 100 ms, though a commit takes
a few milliseconds. One that has waited for long looks rarely, and others that have just come get
the lock before it. Here all writers look equally often.
"""

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import aiosqlite
from aiosqlite.context import contextmanager

from outbox.database import sqlite_errors

BUSY_SECONDS = 30
"""Seconds that a SQLite writer waits for another one."""
LONGEST_PAUSE_SECONDS = 0.001
"""Seconds after which a waiting writer looks again, at the latest."""
ROWS_AT_ONCE = 100
"""The most rows that are read with their statement; others are read when they are fetched."""


def connect(file: str, **options: Any) -> "Connection":
    """Return a connection to *file*, to be awaited; *options* are those of `sqlite3.connect`."""
    connection = Connection(partial(sqlite3.connect, file, **options), ROWS_AT_ONCE)
    # As SQLAlchemy does: the end of the process does not wait for the thread.
    connection._thread.daemon = True  # noqa: SLF001
    return connection


class Connection(aiosqlite.Connection):
    """
    A connection of aiosqlite with cursors of one step.

    `is_durable` says whether transactions that begin from now on wait for the disk when they
    commit (synchronous FULL instead of NORMAL). A loss of power may undo the last ones that did
    not, but none before a durable one. The end of a process undoes none.
    A writer waits for another one at most `busy_seconds`.
    """

    busy_seconds: float = BUSY_SECONDS
    is_durable = True
    waits_for_disk = True
    """What `is_durable` was when SQLite was told last; only for the thread of the connection."""

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        return Cursor(self, self._conn.cursor())

    async def rollback(self) -> None:
        # A pool rolls back each connection that it gets back, mostly one without a transaction.
        if self.in_transaction:
            await super().rollback()


class Cursor(aiosqlite.Cursor):
    """A cursor that reads its first rows together with the statement."""

    def __init__(self, connection: Connection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._connection = connection
        self._rows: list[Any] = []
        # Whether the statement may have more rows; if not, SQLite has ended it.
        self._is_open = False

    async def execute(self, sql: str, parameters: Any = None) -> Self:
        await self._run(partial(self._execute_and_read, sql, parameters or ()))
        return self

    async def fetchone(self) -> Any:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = self.arraysize if size is None else size
        if self._is_open and len(self._rows) < wanted:
            await self._run(partial(self._read, wanted))
        rows, self._rows = self._rows[:wanted], self._rows[wanted:]
        return rows

    async def fetchall(self) -> list[Any]:
        if self._is_open:
            await self._run(partial(self._read, None))
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []
        if self._is_open:
            self._is_open = False
            await super().close()

    async def _run(self, work: Callable[[], None]) -> None:
        """Run *work* in the thread of the connection."""
        await self._execute(work)  # type: ignore[no-untyped-call]

    def _execute_and_read(self, sql: str, parameters: Any) -> None:
        self._rows = []
        if sql == "BEGIN IMMEDIATE":
            self._make_durable()
            _begin(self._cursor, self._connection.busy_seconds)
            return
        self._cursor.execute(sql, parameters)
        self._is_open = self._cursor.description is not None
        if self._is_open:
            self._read(ROWS_AT_ONCE)

    def _make_durable(self) -> None:
        connection = self._connection
        if connection.is_durable != connection.waits_for_disk:
            mode = "FULL" if connection.is_durable else "NORMAL"
            self._cursor.execute(f"PRAGMA synchronous = {mode}")
            connection.waits_for_disk = connection.is_durable

    def _read(self, size: int | None) -> None:
        rows = self._cursor.fetchall() if size is None else self._cursor.fetchmany(size)
        self._is_open = size is not None and len(rows) == size
        self._rows += rows


def _begin(cursor: sqlite3.Cursor, busy_seconds: float) -> None:
    """Begin a transaction that writes, once no other connection writes to the file."""
    deadline = time.monotonic() + busy_seconds
    pause = LONGEST_PAUSE_SECONDS / 8
    cursor.connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                is_busy = sqlite_errors.primary_code(error) == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= deadline:
                    raise
            else:
                return
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
    finally:
        cursor.connection.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")
