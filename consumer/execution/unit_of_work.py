"""
The transaction of a handler's session, which the consumer begins and ends.

    DriverUnitOfWork    Postgres: the transaction of a connection of asyncpg
    SessionUnitOfWork   SQLite: the session's own transaction

BEGIN, the dedup record and COMMIT are executed for each message. Through the layers above the
driver they took a sixth of a consumer's time, measured. So on Postgres:

- SQLAlchemy sees a connection in autocommit that belongs to the consumer: a session that rolls
  back ends no transaction, and returns no connection to the pool. The consumer detects it.
- A connection returns to the pool without a transaction, or it is closed.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSessionTransaction,
)
from sqlalchemy.orm import Session, SessionTransaction

from consumer.execution.session_guard import HandlerSession, refuse_statements
from consumer.storage.dedup import Dedup, Entries
from outbox.database.errors import is_unavailable, problem_of
from outbox.database.postgres_connection import DRIVER_ERRORS, is_unusable
from outbox.errors import DatabaseUnavailable
from outbox.runtime.schema_monitor import Gate
from outbox.runtime.shield import shielded

Answer = TypeVar("Answer")


class UnitOfWorkFactory:
    """Begins units of work in the database behind *engine*, unless *gate* is closed."""

    def __init__(self, engine: AsyncEngine, gate: Gate | None = None) -> None:
        is_postgres = engine.dialect.name == "postgresql"
        self._kind = DriverUnitOfWork if is_postgres else SessionUnitOfWork
        options = {"isolation_level": "AUTOCOMMIT"} if is_postgres else {}
        self._engine = engine.execution_options(**options)
        refuse_statements(self._engine)
        self._gate = gate or Gate()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["UnitOfWork"]:
        """
        A transaction, which is rolled back at the end of the block unless it was committed.

        This and the methods of the unit of work raise errors of SQLAlchemy, and this raises
        DatabaseUnavailable while the gate is closed.
        """
        # Without a call: this is done for each message.
        if self._gate.problem is not None:
            raise DatabaseUnavailable(self._gate.problem)
        work = self._kind(await self._engine.connect())
        try:
            await work.begin()
            yield work
        finally:
            await work.end()


class UnitOfWork(ABC):
    """One transaction on *connection*, which handlers see as `session`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.session = HandlerSession(connection, expire_on_commit=False)
        self._connection = connection
        self._began: SessionTransaction | None = None

    @abstractmethod
    async def begin(self) -> None:
        """Begin; READ COMMITTED on Postgres."""

    @abstractmethod
    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        """`Dedup.record_completed` in this transaction."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether session and database are still in this transaction; sends no request."""

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Whether the connection, and with it the transaction, has ended; sends no request."""

    @abstractmethod
    async def _commit(self) -> None: ...

    @abstractmethod
    async def end(self) -> None:
        """Roll back unless committed, and return the connection to the pool or close it."""

    @abstractmethod
    def discard(self) -> None:
        """Close the connection, whose session has lost what the driver relies on."""

    async def savepoint(self) -> AsyncSessionTransaction:
        """A savepoint, created at once: a session would create it with its next statement."""
        savepoint = await self.session.begin_nested()
        await self.session.connection()
        return savepoint

    async def commit(self) -> None:
        """
        Commit, without interruption by a cancellation.

        Raises DatabaseUnavailable if the database answers and has no room, or is read-only. A
        lost connection is raised as the driver's error, because a handler that works for too long
        loses it as well.
        """
        try:
            await self._commit()
        except DBAPIError as error:
            if is_unavailable(error) and not self.is_lost:
                raise DatabaseUnavailable(problem_of(error)) from None
            raise


class SessionUnitOfWork(UnitOfWork):
    """The session's own transaction."""

    async def begin(self) -> None:
        await self.session.connection()
        self._began = self.session.sync_session.get_transaction()

    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        return await dedup.record_completed(self.session, entries)

    @property
    def is_open(self) -> bool:
        connection = self.session.sync_session.get_bind()
        in_database = isinstance(connection, sa.Connection) and not connection.invalidated
        return in_database and self.session.sync_session.get_transaction() is self._began

    @property
    def is_lost(self) -> bool:
        return False

    def discard(self) -> None: ...

    async def end(self) -> None:
        await shielded(self._end())

    async def _commit(self) -> None:
        await shielded(self.session.run_sync(Session.commit))

    async def _end(self) -> None:
        try:
            await self.session.close()
        finally:
            await self._connection.close()


class DriverUnitOfWork(UnitOfWork):
    """A transaction of the connection of asyncpg under the session."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._driver: Any = _sync(connection).connection.driver_connection
        self._has_begun = False

    async def begin(self) -> None:
        await self._request(self._driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED"))
        self._has_begun = True
        self._began = self.session.sync_session.begin()

    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        return await self._request(dedup.record_completed_by_driver(self._driver, entries))

    @property
    def is_open(self) -> bool:
        in_session = self.session.sync_session.get_transaction() is self._began
        return in_session and self._is_in_transaction

    @property
    def _is_in_transaction(self) -> bool:
        # A closed connection has no state to ask for, and raises AttributeError.
        return not self._driver.is_closed() and bool(self._driver.is_in_transaction())

    @property
    def is_lost(self) -> bool:
        return bool(self._driver.is_closed()) or self._connection.invalidated

    def discard(self) -> None:
        self._driver.terminate()

    async def end(self) -> None:
        if not self._has_begun:
            # A BEGIN that was cancelled may still be executed, after the pool has the connection.
            self._driver.terminate()
        has_savepoint = self.session.in_nested_transaction()
        if self._driver.is_closed() or self._is_in_transaction or has_savepoint:
            await shielded(self._end())
        else:
            # These calls send no request, so a cancellation cannot interrupt them.
            self.session.sync_session.close()
            _sync(self._connection).close()

    async def _commit(self) -> None:
        # The session counts a savepoint as a transaction, which it could not end afterwards.
        while (savepoint := self.session.get_nested_transaction()) is not None:
            await savepoint.commit()
        session = self.session.sync_session
        if session.new or session.dirty or session.deleted:
            await self.session.flush()
        await self._request(shielded(self._driver.execute("COMMIT")))
        # This sends no request: it notifies the listeners of the session.
        Session.commit(session)

    async def _end(self) -> None:
        try:
            # First: to end a savepoint the session sends a request, inside the transaction.
            await self.session.close()
        except DBAPIError:
            # The handler ended the transaction by SQL, and the savepoint with it.
            if self._driver.is_closed() or self._is_in_transaction:
                raise
        finally:
            await self._release()

    async def _release(self) -> None:
        driver = self._driver
        try:
            if not driver.is_closed() and driver.is_in_transaction():
                await self._request(driver.execute("ROLLBACK"))
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                await self._connection.invalidate()
            await self._connection.close()

    async def _request(self, request: Awaitable[Answer]) -> Answer:
        """The answer to *request*; raises the error of SQLAlchemy for each error of the driver."""
        try:
            return await request
        except DRIVER_ERRORS as error:
            if is_unusable(error):
                self._driver.terminate()
            raise DBAPIError(
                None,
                None,
                error,
                hide_parameters=True,
                connection_invalidated=self._driver.is_closed(),
            ) from None


def _sync(connection: AsyncConnection) -> sa.Connection:
    if connection.sync_connection is None:
        raise TypeError("the connection is not open")
    return connection.sync_connection
