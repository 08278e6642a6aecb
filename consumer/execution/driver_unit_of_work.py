"""
The transaction of a connection of asyncpg under a handler's session.

BEGIN, the dedup record and COMMIT are executed for each message. Through the layers above the
driver they took a sixth of a consumer's time, measured. So on Postgres:

- SQLAlchemy sees a connection in autocommit that belongs to the consumer: a session that rolls
  back ends no transaction, and returns no connection to the pool. The consumer detects it.
- A connection returns to the pool without a transaction, or it is closed.
"""

from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from consumer.execution.unit_of_work import UnitOfWork, commits, has_rolled_back, sync
from consumer.storage.dedup import Dedup, Entries
from outbox.database.postgres_connection import BEGIN, answer_of
from outbox.runtime.shield import shielded


class DriverUnitOfWork(UnitOfWork):
    """A transaction of the connection of asyncpg under the session."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._driver: Any = sync(connection).connection.driver_connection
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
        await answer_of(self._driver, shielded(self._driver.execute("COMMIT")))
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
                await answer_of(driver, driver.execute("ROLLBACK"))
        finally:
            if driver.is_closed() or driver.is_in_transaction():
                await self.connection.invalidate()
            await self.connection.close()
