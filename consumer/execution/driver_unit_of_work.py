"""
The transaction of a handler's session on Postgres: that of a connection of asyncpg.

BEGIN, the dedup record and COMMIT are executed for each message. Through the layers above the
driver they took a sixth of a consumer's time, measured. So here:

- SQLAlchemy sees a connection in autocommit that belongs to the consumer: a session that rolls
  back ends no transaction, and returns no connection to the pool. The consumer detects it.
- A connection returns to the pool without a transaction, or it is closed.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from consumer.execution.session_guard import commits, has_rolled_back
from consumer.execution.unit_of_work import UnitOfWork, sync
from consumer.storage.dedup import Dedup, Entries
from outbox.database.postgres_connection import DRIVER_ERRORS, is_unusable
from outbox.runtime.shield import shielded

Answer = TypeVar("Answer")


class DriverUnitOfWork(UnitOfWork):
    """A transaction of the connection of asyncpg under the session."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._driver: Any = sync(connection).connection.driver_connection
        self._has_begun = False

    async def begin(self) -> None:
        await self._request(self._driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED"))
        self._has_begun = True
        self._began = self.session.sync_session.begin()

    async def record_completed(self, dedup: Dedup, entries: Entries) -> set[str]:
        return await self._request(dedup.record_completed_by_driver(self._driver, entries))

    @property
    def is_open(self) -> bool:
        return (
            self._is_in_session
            and self._is_in_transaction
            and not has_rolled_back(sync(self.connection))
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
            sync(self.connection).close()

    async def _commit(self) -> None:
        # The session counts a savepoint as a transaction, which it could not end afterwards.
        while (savepoint := self.session.get_nested_transaction()) is not None:
            await savepoint.commit()
        session = self.session.sync_session
        if session.new or session.dirty or session.deleted:
            await self.session.flush()
        await self._request(shielded(self._driver.execute("COMMIT")))
        # This sends no request: it notifies the listeners of the session.
        with commits(sync(self.connection)):
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
                await self.connection.invalidate()
            await self.connection.close()

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
