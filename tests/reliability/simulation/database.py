"""
A simulated database server that may be unavailable, and the engines that connect to it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from tests.reliability.simulation.driver import Connection, lost
from tests.reliability.simulation.process import Process, current


class Database:
    """The file at *path* as a server; *delay* draws the seconds of a round to it."""

    def __init__(self, path: Path, *, delay: Callable[[], float]) -> None:
        self.path = path
        self.is_unavailable = False
        self.disturbances = 0
        self._delay = delay
        self._open: dict[Connection, None] = {}

    def connect(self, process: Process) -> Connection:
        """Raises OperationalError if it is unavailable."""
        process.check()
        if self.is_unavailable:
            raise lost() from ConnectionRefusedError()
        connection = Connection(
            self.path, process, delay=self._delay, on_refusal=self._note_refusal
        )
        self._open[connection] = None
        process.at_death(connection.stop)
        return connection

    def _note_refusal(self) -> bool:
        """Other people let a row not be deleted: its batch may be published again."""
        self.disturbances += 1
        return True

    def leave(self) -> None:
        """Become unavailable; all sessions end."""
        self.is_unavailable = True
        self.cut()

    def come_back(self) -> None:
        """Become available again."""
        self.is_unavailable = False

    def cut(self, process: Process | None = None) -> None:
        """
        End the sessions of *process*, or of all processes; their transactions are rolled back.
        """
        self.disturbances += 1
        for connection in list(self._open):
            if process is None or connection.process is process:
                connection.stop()
                del self._open[connection]


class Engines:
    """
    Engines of the product, each used by one process at a time.

    An engine is reused when its process has ended, to keep its cache of compiled statements.
    """

    def __init__(self, databases: Callable[[], dict[str, Database]]) -> None:
        self._databases = databases
        self._free: dict[str, list[AsyncEngine]] = {}

    def create(self, url: URL, **options: Any) -> AsyncEngine:
        """Stands in for `outbox.database.engine.create_engine`, with the simulated driver."""
        free = self._free.setdefault(str(url), [])
        engine = free.pop() if free else self._made(url, options)
        engine.sync_engine.dispose(close=False)
        if (process := current()) is not None:
            process.when_gone(lambda: free.append(engine))
        return engine

    def _made(self, url: URL, options: dict[str, Any]) -> AsyncEngine:
        engine = create_engine(url, **options)
        sa.event.listen(engine.sync_engine, "do_connect", self._connect)
        return engine

    def _connect(
        self, dialect: sa.Dialect, _record: Any, arguments: list[Any], _options: dict[str, Any]
    ) -> AsyncAdapt_aiosqlite_connection:
        process = current()
        if process is None:
            raise AssertionError("only processes connect")
        connection = self._databases()[arguments[0]].connect(process)
        return AsyncAdapt_aiosqlite_connection(dialect.dbapi, connection)  # type: ignore[arg-type]
