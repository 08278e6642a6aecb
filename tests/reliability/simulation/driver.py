"""
A driver for SQLite without threads: the part of aiosqlite that SQLAlchemy's dialect uses.

Statements are real, and executed at once. Around each of them there is a simulated network: the
statement takes time to arrive, and the connection may break before or after its execution. The
process that waits may be killed meanwhile. Closing the connection rolls back what is uncommitted,
as a server does for a client that is gone.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.reliability.simulation.process import Process
from tests.reliability.simulation.sqlite_clock import follow_the_loop
from tests.reliability.simulation.steps import commit_of, step_of

Result = TypeVar("Result")

BUSY_SECONDS = 30.0
"""As in `outbox.database.engine`, but it is the simulated time that is waited for."""
_LOOK_AGAIN_SECONDS = 0.01


def lost() -> sqlite3.OperationalError:
    """The error of a lost connection; the dialect recognises it by its text."""
    return sqlite3.OperationalError("connection closed")


class Connection:
    """
    A connection of *process* to the file at *path*.

    Args:
        delay: Draws the seconds of a way there.
        on_refusal: Called when other people refuse a deletion; see `other_people`.

    """

    def __init__(
        self,
        path: Path,
        process: Process,
        *,
        delay: Callable[[], float],
        on_refusal: Callable[[], bool] = lambda: True,
    ) -> None:
        self.process = process
        self._delay = delay
        self._raw: sqlite3.Connection | None = sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False
        )
        # Nothing has to survive the machine.
        self._raw.execute("PRAGMA synchronous = OFF")
        follow_the_loop(self._raw)
        self._raw.create_function("note_refusal", 0, on_refusal)
        self._steps: set[str] = set()
        # The names that the dialect looks for.
        self._tx = _Inline()

    @property
    def _connection(self) -> sqlite3.Connection | None:
        return self._raw

    @property
    def _conn(self) -> sqlite3.Connection:
        return self.raw()

    @property
    def isolation_level(self) -> str | None:
        return self.raw().isolation_level

    @property
    def text_factory(self) -> Any:
        """What makes the value of a text, as the product sets it for rows of other people."""
        return self.raw().text_factory

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self.raw().text_factory = factory

    def raw(self) -> sqlite3.Connection:
        """The connection to the file. Raises OperationalError if the simulated one is lost."""
        self.process.check()
        if self._raw is None:
            raise lost()
        return self._raw

    def cursor(self) -> "Cursor":
        return Cursor(self)

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        self.raw().create_function(*arguments, **options)

    @property
    def in_transaction(self) -> bool:
        return bool(self.raw().in_transaction)

    async def commit(self) -> None:
        if self.raw().in_transaction:
            await self.ask(commit_of(self._steps), lambda raw: raw.execute("COMMIT"))
            self._steps.clear()
            await asyncio.sleep(self._delay())
            self.process.check()

    async def rollback(self) -> None:
        self.raw().rollback()
        self._steps.clear()

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Close it, for either side; uncommitted changes are rolled back."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    async def ask(self, step: str | None, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """
        The result of *work*, the *step* of this name; without a name no fault is injected.

        Raises the driver's errors, and OperationalError if the connection is lost.
        """
        if step is None:
            return work(self.raw())
        await asyncio.sleep(self._delay())
        self._pass(f"{step}.sent")
        result = await self._when_free(work)
        self._steps.add(step)
        self._pass(f"{step}.answered")
        return result

    def _pass(self, point: str) -> None:
        if self.process.passing(point):
            self.stop()
        self.raw()

    async def _when_free(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """SQLite has one writer; another one waits in simulated time."""
        clock = asyncio.get_running_loop().time
        until = clock() + BUSY_SECONDS
        while True:
            try:
                return work(self.raw())
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or clock() > until:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


class Cursor:
    """Fetches all rows with the statement: no other task runs in between."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "Cursor":
        if statement.startswith("PRAGMA synchronous"):
            return self
        await self._connection.ask(
            step_of(statement), lambda raw: self._keep(raw.execute(statement, parameters))
        )
        return self

    async def executemany(self, statement: str, parameters: Sequence[Any]) -> "Cursor":
        await self._connection.ask(
            step_of(statement), lambda raw: self._keep(raw.executemany(statement, parameters))
        )
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []

    def _keep(self, cursor: sqlite3.Cursor) -> None:
        # Closed after an error, too: an open cursor would keep the file open after its connection.
        with closing(cursor):
            self.description = cursor.description
            self._rows = cursor.fetchall() if cursor.description else []
            self.rowcount = cursor.rowcount
            self.lastrowid = cursor.lastrowid


class _Inline:
    """Stands in for the queue of aiosqlite's thread: runs each entry at once."""

    @staticmethod
    def put_nowait(item: tuple[asyncio.Future[Any], Callable[[], Any]]) -> None:
        future, function = item
        future.set_result(function())
