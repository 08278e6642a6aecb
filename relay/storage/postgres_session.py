"""
A session of Postgres in which the relay claims and settles, by statements of the driver itself.

Around a statement for a single event SQLAlchemy takes more time than the server needs for it. So
the statements of every batch go to asyncpg, with the text that SQLAlchemy's compiler makes of them
once; `tests/benchmarks` measures it as `latency_vs_handwritten`. Rarer ones go through SQLAlchemy,
on the same connection and in the same transaction: its isolation level is AUTOCOMMIT there, so it
leaves BEGIN and COMMIT to this class.
"""

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.postgres_connection import BEGIN, answer_of
from outbox.runtime.shield import shielded

Answer = TypeVar("Answer")


class _Compiled(NamedTuple):
    """The text of a statement, the names of its parameters in order, and those with a value."""

    text: str
    names: Sequence[str]
    values: Mapping[str, Any]


@lru_cache(maxsize=16)
def _compiled(statement: sa.Executable, dialect: sa.Dialect) -> _Compiled:
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    return _Compiled(str(compiled), tuple(compiled.positiontup), dict(compiled.params))


class PostgresSession:
    """
    *connection*, which has at most one open transaction; *settings* is executed in each.

    The methods raise DBAPIError, and the errors of sockets as they are. After a lost connection or
    a cancellation the session is no longer `usable`.
    """

    def __init__(
        self, connection: AsyncConnection, *, settings: sa.Select[Any] | None = None
    ) -> None:
        self.connection = connection
        """For statements by SQLAlchemy."""
        self._settings = settings
        self._driver: Any = None
        self._broken = False

    async def open(self) -> None:
        """Prepare the connection, until `close` returns it."""
        await self.connection.execution_options(isolation_level="AUTOCOMMIT")
        self._driver = (await self.connection.get_raw_connection()).driver_connection

    @property
    def usable(self) -> bool:
        """Whether a transaction may begin."""
        is_open = self._driver is not None and not self._driver.is_closed()
        return is_open and not self._broken and not self.connection.invalidated

    async def begin(self) -> None:
        """Begin, at READ COMMITTED, with the settings of this transaction."""
        await self._answer(self._driver.execute(BEGIN))
        if self._settings is not None:
            await self.read(self._settings, {})

    async def read(
        self, statement: sa.Executable, parameters: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of *statement* as the driver makes them; their columns need no conversion."""
        text, arguments = self._arguments(statement, parameters)
        rows: Sequence[Mapping[str, Any]]
        rows = await self._answer(self._driver.fetch(text, *arguments))
        return rows

    async def change(self, statement: sa.Executable, parameters: Mapping[str, Any]) -> int:
        """Execute *statement*; returns how many rows it has changed."""
        text, arguments = self._arguments(statement, parameters)
        status: str = await self._answer(self._driver.execute(text, *arguments))
        return int(status.rpartition(" ")[2])

    async def commit(self) -> None:
        """Commit; a cancellation is raised afterwards, since the outcome would be unknown."""
        await self._answer(shielded(self._driver.execute("COMMIT")))
        await self._forget_transaction()

    async def rollback(self) -> None:
        """Undo what was not committed; if that fails, the session is no longer usable."""
        try:
            await self._forget_transaction()
            if self._driver.is_in_transaction():
                await self._answer(self._driver.execute("ROLLBACK"))
        except BaseException:
            self._broken = True
            raise

    async def close(self) -> None:
        """Return the connection to its engine, or end it if the session is not usable."""
        with suppress(SQLAlchemyError, OSError):
            if not self.usable:
                await self.connection.invalidate()
            await self.connection.close()

    async def _forget_transaction(self) -> None:
        """SQLAlchemy takes its statements for a transaction, which has no other effect here."""
        if self.connection.in_transaction():
            await self.connection.rollback()

    def _arguments(
        self, statement: sa.Executable, parameters: Mapping[str, Any]
    ) -> tuple[str, list[Any]]:
        text, names, values = _compiled(statement, self.connection.dialect)
        given = {**values, **parameters}
        return text, [given[name] for name in names]

    async def _answer(self, request: Awaitable[Answer]) -> Answer:
        try:
            return await answer_of(self._driver, request)
        except DBAPIError:
            raise
        except BaseException:
            # An answer of the server may still be on its way.
            self._broken = True
            raise
