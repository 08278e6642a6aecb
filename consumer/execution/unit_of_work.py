"""
The transaction of a handler's session, which the consumer begins and ends.

    DriverUnitOfWork    Postgres: the transaction of a connection of asyncpg
    SessionUnitOfWork   SQLite: the session's own transaction

BEGIN, the dedup record and COMMIT are executed for each message. Through the layers above the
driver they took a sixth of a consumer's time, measured. So on Postgres:

- SQLAlchemy sees a connection in autocommit that belongs to the consumer: a session that rolls
  back ends no transaction, and returns no connection to the pool. The consumer detects it.
- A connection returns to the pool without a transaction, or it is closed.

On both, a commit that is not the unit of work's own raises TransactionEndedByHandler.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransaction

from consumer.execution.session_guard import REFUSAL, HandlerSession, refuse_statements
from consumer.storage.dedup import Dedup, Entries
from outbox.database.errors import is_unavailable, problem_of
from outbox.database.postgres_connection import BEGIN, answer_of
from outbox.errors import DatabaseUnavailable, TransactionEndedByHandler
from outbox.runtime.schema_monitor import Gate
from outbox.runtime.shield import shielded

_COMMITS = "outbox-relay commits"
_ROLLED_BACK = "outbox-relay has rolled back"


class UnitOfWorkFactory:
    """Begins units of work in the database behind *engine*, unless *gate* is closed."""

    def __init__(self, engine: AsyncEngine, gate: Gate | None = None) -> None:
        is_postgres = engine.dialect.name == "postgresql"
        self._kind = DriverUnitOfWork if is_postgres else SessionUnitOfWork
        options = {"isolation_level": "AUTOCOMMIT"} if is_postgres else {}
        self._engine = engine.execution_options(**options)
        refuse_statements(self._engine)
        sa.event.listen(self._engine.sync_engine, "commit", _refuse_commit)
        sa.event.listen(self._engine.sync_engine, "rollback", _note_rollback)
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
            _begins(_sync(work.connection))
            await work.begin()
            yield work
        finally:
            await work.end()


class UnitOfWork(ABC):
    """One transaction on `connection`, which handlers see as `session`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.session = HandlerSession(connection, expire_on_commit=False)
        self.connection = connection
        self._began: SessionTransaction | None = None

    @abstractmethod
    async def begin(self) -> None:
        """Begin; READ COMMITTED on Postgres."""

    @abstractmethod
    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        """`Dedup.record_completed` in this transaction."""

    @property
    def _is_in_session(self) -> bool:
        """Whether the session is in the transaction; a failed flush may have ended it there."""
        began = self._began
        return (
            began is not None
            and began.is_active
            and self.session.sync_session.get_transaction() is began
        )

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
        connection = _sync(self.connection)
        return (
            self._is_in_session
            and not connection.invalidated
            and not _has_rolled_back(connection)
            and bool(connection.connection.driver_connection.in_transaction)  # type: ignore[union-attr]
        )

    @property
    def is_lost(self) -> bool:
        return False

    def discard(self) -> None: ...

    async def end(self) -> None:
        await shielded(self._end())

    async def _commit(self) -> None:
        with _commits(_sync(self.connection)):
            await shielded(self.session.run_sync(Session.commit))

    async def _end(self) -> None:
        try:
            await self.session.close()
        finally:
            await self.connection.close()


class DriverUnitOfWork(UnitOfWork):
    """A transaction of the connection of asyncpg under the session."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._driver: Any = _sync(connection).connection.driver_connection
        self._has_begun = False

    async def begin(self) -> None:
        await answer_of(self._driver, self._driver.execute(BEGIN))
        self._has_begun = True
        self._began = self.session.sync_session.begin()

    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        return await answer_of(
            self._driver, dedup.record_completed_by_driver(self._driver, entries)
        )

    @property
    def is_open(self) -> bool:
        return (
            self._is_in_session
            and self._is_in_transaction
            and not _has_rolled_back(_sync(self.connection))
        )

    @property
    def _is_in_transaction(self) -> bool:
        # A closed connection has no state to ask for, and raises AttributeError.
        return not self._driver.is_closed() and bool(self._driver.is_in_transaction())

    @property
    def is_lost(self) -> bool:
        return bool(self._driver.is_closed()) or self.connection.invalidated

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
            _sync(self.connection).close()

    async def _commit(self) -> None:
        # The session counts a savepoint as a transaction, which it could not end afterwards.
        while (savepoint := self.session.get_nested_transaction()) is not None:
            await savepoint.commit()
        session = self.session.sync_session
        if session.new or session.dirty or session.deleted:
            await self.session.flush()
        await answer_of(self._driver, shielded(self._driver.execute("COMMIT")))
        # This sends no request: it notifies the listeners of the session.
        with _commits(_sync(self.connection)):
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
                await answer_of(driver, driver.execute("ROLLBACK"))
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                await self.connection.invalidate()
            await self.connection.close()


def _begins(connection: sa.Connection) -> None:
    """A unit of work begins on *connection*."""
    connection.info.pop(_ROLLED_BACK, None)


def _has_rolled_back(connection: sa.Connection) -> bool:
    """Whether session or connection have rolled back since the unit of work began."""
    return _ROLLED_BACK in connection.info


@contextmanager
def _commits(connection: sa.Connection) -> Iterator[None]:
    """Let *connection* commit in this block, for the unit of work."""
    info = connection.info
    info[_COMMITS] = True
    try:
        yield
    finally:
        del info[_COMMITS]


def _refuse_commit(connection: sa.Connection) -> None:
    if _COMMITS not in connection.info:
        raise TransactionEndedByHandler(REFUSAL)


def _note_rollback(connection: sa.Connection) -> None:
    if not connection.invalidated:  # it has no transaction any more, nor anything to note that in
        connection.info[_ROLLED_BACK] = True


def _sync(connection: AsyncConnection) -> sa.Connection:
    if connection.sync_connection is None:
        raise TypeError("the connection is not open")
    return connection.sync_connection
