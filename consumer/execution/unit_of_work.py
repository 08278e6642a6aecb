"""
The transaction of a handler's session, which the consumer begins and ends.

    SessionUnitOfWork       SQLite: the session's own transaction
    driver_unit_of_work     Postgres: the transaction of a connection of asyncpg

On both, a commit that is not the unit of work's own raises TransactionEndedByHandler.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransaction

from consumer.execution.session_guard import REFUSAL, HandlerSession, refuse_statements
from consumer.storage.dedup import Dedup, Entries
from outbox.database.errors import is_unavailable, problem_of
from outbox.errors import DatabaseUnavailable, TransactionEndedByHandler
from outbox.runtime.schema_monitor import Gate
from outbox.runtime.shield import shielded

_COMMITS = "outbox-relay commits"
_ROLLED_BACK = "outbox-relay has rolled back"


class UnitOfWorkFactory:
    """Begins units of work in the database behind *engine*, unless *gate* is closed."""

    def __init__(self, engine: AsyncEngine, gate: Gate | None = None) -> None:
        is_postgres = engine.dialect.name == "postgresql"
        self._kind = _kind(is_postgres=is_postgres)
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
            _begins(sync(work.connection))
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
        connection = sync(self.connection)
        return (
            self._is_in_session
            and not connection.invalidated
            and not has_rolled_back(connection)
            and bool(connection.connection.driver_connection.in_transaction)  # type: ignore[union-attr]
        )

    @property
    def is_lost(self) -> bool:
        return False

    def discard(self) -> None: ...

    async def end(self) -> None:
        await shielded(self._end())

    async def _commit(self) -> None:
        with commits(sync(self.connection)):
            await shielded(self.session.run_sync(Session.commit))

    async def _end(self) -> None:
        try:
            await self.session.close()
        finally:
            await self.connection.close()


def _kind(*, is_postgres: bool) -> type[UnitOfWork]:
    if not is_postgres:
        return SessionUnitOfWork
    # Its driver need not be installed for SQLite.
    from consumer.execution.driver_unit_of_work import DriverUnitOfWork  # noqa: PLC0415

    return DriverUnitOfWork


def _begins(connection: sa.Connection) -> None:
    """A unit of work begins on *connection*."""
    connection.info.pop(_ROLLED_BACK, None)


def has_rolled_back(connection: sa.Connection) -> bool:
    """Whether session or connection have rolled back since the unit of work began."""
    return _ROLLED_BACK in connection.info


@contextmanager
def commits(connection: sa.Connection) -> Iterator[None]:
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


def sync(connection: AsyncConnection) -> sa.Connection:
    if connection.sync_connection is None:
        raise TypeError("the connection is not open")
    return connection.sync_connection
