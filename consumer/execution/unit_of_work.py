"""
The transaction that a handler's session is in, begun and ended by us.

On Postgres this speaks to the driver itself. BEGIN, the record and COMMIT are done for each
message, and through the layers above they were measured as a sixth of a consumer's time.

- To SQLAlchemy the connection is in autocommit, and it is ours: a session that commits or rolls
  back ends nothing, and gives nothing back to the pool. That it did so is noticed.
- A connection leaves us without a transaction, or is thrown away.

On SQLite the session's own transaction is used.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncSessionTransaction,
)
from sqlalchemy.orm import SessionTransaction

from consumer.storage.dedup import Dedup, Entries
from outbox.database.errors import is_unavailable, reason_of
from outbox.database.postgres_connection import DRIVER_ERRORS, is_unusable
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import shielded


class UnitOfWorkFactory:
    """Where transactions are made: the database behind *engine*."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._is_postgres = engine.dialect.name == "postgresql"
        options = {"isolation_level": "AUTOCOMMIT"} if self._is_postgres else {}
        self._engine = engine.execution_options(**options)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["UnitOfWork"]:
        """
        A transaction, which is rolled back at the end of the block unless it was committed.

        Its methods, and this, raise what SQLAlchemy raises for what the driver does.
        """
        connection = await self._engine.connect()
        session = AsyncSession(connection, expire_on_commit=False)
        work = UnitOfWork(session, _driver(connection) if self._is_postgres else None)
        try:
            await work.begin()
            yield work
        finally:
            if work.is_over:
                # Nothing is asked of the database any more, so nothing has to be waited for.
                session.sync_session.close()
                _sync(connection).close()
            else:
                await shielded(_end(work, connection))


class UnitOfWork:
    """One transaction of *session*, which on Postgres is that of the *driver*'s connection."""

    def __init__(self, session: AsyncSession, driver: Any) -> None:
        self.session = session
        self.driver = driver
        self._began: SessionTransaction | None = None

    async def begin(self) -> None:
        """Begin; READ COMMITTED on Postgres."""
        if self.driver is None:
            await self.session.connection()
            self._began = self.session.sync_session.get_transaction()
        else:
            with as_sqlalchemy_errors(self.driver):
                await self.driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            self._began = self.session.sync_session.begin()

    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        """`Dedup.record_completed` in this transaction."""
        if self.driver is None:
            return await dedup.record_completed(self.session, entries)
        with as_sqlalchemy_errors(self.driver):
            return await dedup.record_completed_by_driver(self.driver, entries)

    async def savepoint(self) -> AsyncSessionTransaction:
        """A savepoint that is there: a session makes its own only with its next statement."""
        savepoint = await self.session.begin_nested()
        await self.session.connection()
        return savepoint

    @property
    def is_open(self) -> bool:
        """Whether it is still the session's and the database's; asks no server."""
        session = self.session.sync_session
        if self.driver is None:
            connection = session.get_bind()
            in_database = isinstance(connection, sa.Connection) and not connection.invalidated
        else:
            in_database = self.driver.is_in_transaction()
        return in_database and session.get_transaction() is self._began

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, and the transaction with it; asks no server."""
        connection = self.session.bind
        return self.driver is not None and (
            self.driver.is_closed()
            or (isinstance(connection, AsyncConnection) and connection.invalidated)
        )

    @property
    def is_over(self) -> bool:
        """Whether the database is asked no more, neither here nor there."""
        return (
            self.driver is not None
            and not self.driver.is_closed()
            and not self.driver.is_in_transaction()
        )

    async def commit(self) -> None:
        """
        Commit, and let no cancellation come in between.

        Raises DatabaseUnavailable if the database is there and has no room, or only reads: it may
        answer all that is asked of it before. A connection that is lost is told as it is, since
        who works for too long loses it as well.
        """
        try:
            await self._commit()
        except DBAPIError as error:
            if is_unavailable(error) and not self.is_lost:
                raise DatabaseUnavailable(reason_of(error)) from None
            raise

    async def _commit(self) -> None:
        if self.driver is None:
            await shielded(self.session.commit())
            return
        # To the session a savepoint is a transaction of its own, which it could not end later.
        while (savepoint := self.session.get_nested_transaction()) is not None:
            await savepoint.commit()
        session = self.session.sync_session
        if session.new or session.dirty or session.deleted:
            await self.session.flush()
        with as_sqlalchemy_errors(self.driver):
            await shielded(self.driver.execute("COMMIT"))
        # Of the database there is nothing left to ask; but who listens for a commit is told.
        session.commit()


@contextmanager
def as_sqlalchemy_errors(driver: Any) -> Iterator[None]:
    """Raise for what *driver* does what SQLAlchemy would raise."""
    try:
        yield
    except DRIVER_ERRORS as error:
        if is_unusable(error):
            driver.terminate()
        raise DBAPIError(
            None, None, error, hide_parameters=True, connection_invalidated=driver.is_closed()
        ) from None


def _sync(connection: AsyncConnection) -> sa.Connection:
    if connection.sync_connection is None:
        raise TypeError("the connection is not open")
    return connection.sync_connection


def _driver(connection: AsyncConnection) -> Any:
    return _sync(connection).connection.driver_connection


async def _end(work: UnitOfWork, connection: AsyncConnection) -> None:
    """Roll back whatever was not committed, and give the connection back, or throw it away."""
    driver = work.driver
    try:
        # First, because to end a savepoint it asks the database, and has to be in the transaction.
        await work.session.close()
    finally:
        await _let_go(driver, connection)


async def _let_go(driver: Any, connection: AsyncConnection) -> None:
    try:
        if driver is not None and not driver.is_closed() and driver.is_in_transaction():
            with as_sqlalchemy_errors(driver):
                await driver.execute("ROLLBACK")
    finally:
        if driver is not None and (driver.is_closed() or driver.is_in_transaction()):
            await connection.invalidate()
        await connection.close()
