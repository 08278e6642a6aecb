"""
The transaction of a handler's session, which the consumer begins and ends.

    DriverUnitOfWork    Postgres: the transaction of a connection of asyncpg
    SessionUnitOfWork   SQLite: the session's own transaction
"""

from abc import ABC, abstractmethod

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransaction

from consumer.execution.session_guard import HandlerSession, commits, has_rolled_back
from consumer.storage.dedup import Dedup, Entries
from outbox.database.errors import is_unavailable, problem_of
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import shielded


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


def sync(connection: AsyncConnection) -> sa.Connection:
    if connection.sync_connection is None:
        raise TypeError("the connection is not open")
    return connection.sync_connection
