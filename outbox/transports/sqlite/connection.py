"""
A connection to the SQLite file of the broker, with its own thread.

- A transaction is one call into the thread, not one call per statement.
- Operations that wait at the same time share one transaction.
  An operation runs even if its caller is cancelled while it waits.
- The time is read once per transaction, after its lock is acquired, so that no wait shortens a
  lease.
- All writers and checkpoints of a file take turns, by a `FileLock`. SQLite before 3.51.3 may
  corrupt a WAL file when one connection commits while another one checkpoints
  (sqlite.org/wal.html#walresetbug), so they never do both at once.
- Only a durable transaction waits for the disk (synchronous FULL instead of NORMAL). A loss of
  power may undo transactions that are not durable, the last ones first and never one in between:
  they stand in the WAL in their order, and a durable one syncs all before it. The end of a process
  undoes none.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from outbox.database import sqlite_errors
from outbox.database.sqlite_file_lock import FileLock
from outbox.errors import BrokerUnavailable, SchemaMismatch
from outbox.transports.base import ConnectionCounter, NoCounter

BUSY_SECONDS = 30.0
"""Seconds that a writer waits for the others."""

CLOSE_SECONDS = 5.0

T = TypeVar("T")
Operation: TypeAlias = Callable[[sqlite3.Connection, int], T]
"""A function of a connection and the time in milliseconds since 1970."""

_LONGEST_PAUSE_SECONDS = 0.002


@dataclass(slots=True, eq=False)
class _Task:
    operation: Operation[Any]
    wait: float
    is_durable: bool
    running: asyncio.Future[None] | None = None
    result: Any = None


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class SqliteConnection:
    """
    A connection to the file at *path*, opened on first use and again after an error.

    Args:
        prepare: Called with each new connection; creates the schema if it is missing.
        clock: The time in milliseconds since 1970.
        connections: Counts this connection while the file is open, in its thread.

    """

    def __init__(
        self,
        path: Path,
        *,
        prepare: Callable[[sqlite3.Connection], None],
        clock: Callable[[], int] = wall_clock,
        connections: ConnectionCounter | None = None,
    ) -> None:
        self._path = path
        self._prepare = prepare
        self._clock = clock
        self._connections = connections or NoCounter()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-broker")
        self._turn = asyncio.Lock()
        self._waiting: list[_Task] = []
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        # Whether commits of the open connection are durable; `prepare` makes them so.
        self._is_durable = True
        self._was_opened = False
        self._lock = FileLock(path.with_name(path.name + "-lock"))

    async def write(
        self, operation: Operation[T], *, wait: float = BUSY_SECONDS, durable: bool = True
    ) -> T:
        """
        Run *operation* in a write transaction, and return its result after the commit.

        A loss of power may undo it if it is not *durable*.
        Raises BrokerUnavailable if other writers hold the lock for longer than *wait* seconds.
        """
        task = _Task(operation, wait, durable)
        self._waiting.append(task)
        async with self._turn:
            if task.running is None:
                batch, self._waiting = self._waiting, []
                task.running = asyncio.get_running_loop().run_in_executor(
                    self._thread, self._commit, batch
                )
                for companion in batch:
                    companion.running = task.running
            await asyncio.shield(task.running)
        result: T = task.result
        return result

    async def read(self, operation: Operation[T]) -> T:
        """Run *operation*, which only reads and waits for no writer, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._query, operation
        )

    async def close(self) -> None:
        """Close the file, waiting at most CLOSE_SECONDS for the operation in the thread."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(closing)

    def _commit(self, batch: list[_Task]) -> None:
        deadline = time.monotonic() + max(task.wait for task in batch)
        with self._driver_errors_translated(), self._locked(deadline):
            connection = self._open()
            self._wait_for_disk(connection, any(task.is_durable for task in batch))
            left = max(deadline - time.monotonic(), 0)
            connection.execute(f"PRAGMA busy_timeout = {int(left * 1000)}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                now = self._clock()
                results = [task.operation(connection, now) for task in batch]
                connection.execute("COMMIT")
            except BaseException:
                self._close()
                raise
        for task, result in zip(batch, results, strict=True):
            task.result = result

    def _wait_for_disk(self, connection: sqlite3.Connection, is_durable: bool) -> None:
        """Make the commits of *connection* durable or not; it is in no transaction."""
        if is_durable != self._is_durable:
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable

    def _query(self, operation: Operation[T]) -> T:
        with self._driver_errors_translated():
            if self._connection is None:
                with self._locked(time.monotonic() + BUSY_SECONDS):
                    self._open()
            return operation(self._open(), self._clock())

    def _open(self) -> sqlite3.Connection:
        """Return a connection to the file that is at the path now, not to a removed one."""
        if self._connection is None:
            if not self._path.exists():
                # Bodies contain health data. SQLite gives its side files the same mode.
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._inode = self._path.stat().st_ino
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._is_durable = True
            self._was_opened = True
            self._connections.inc()
        elif self._path.stat().st_ino != self._inode:
            self._close()
            raise BrokerUnavailable("the broker's file was replaced")
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            connection.close()
            self._connections.dec()
        self._lock.close()

    @contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        pause = _LONGEST_PAUSE_SECONDS / 16
        # Polled, because a thread that waits in flock cannot be interrupted.
        while not self._lock.acquire():
            if time.monotonic() >= deadline:
                raise BrokerUnavailable("the broker's file is locked by another writer")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _driver_errors_translated(self) -> Iterator[None]:
        """
        Turn errors of the file into BrokerUnavailable, whose text contains codes and no values.

        Raises SchemaMismatch for a file that was no database when it was first opened.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise BrokerUnavailable("MQ_BROKER_URL: the folder does not exist") from error
        except OSError as error:
            raise BrokerUnavailable(f"the broker's file: {type(error).__name__}") from error
        except sqlite3.Error as error:
            is_other_file = sqlite_errors.primary_code(error) == sqlite3.SQLITE_NOTADB
            if is_other_file and not self._was_opened:
                raise SchemaMismatch("the broker's file is not a SQLite database") from error
            raise BrokerUnavailable(f"the broker's file: {_problem_of(error)}") from error


def _problem_of(error: sqlite3.Error) -> str:
    code = sqlite_errors.code_of(error)
    if code is None:
        return type(error).__name__
    return f"{sqlite_errors.meaning(code)} ({error.sqlite_errorname})"
