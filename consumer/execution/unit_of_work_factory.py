"""
The beginning of a unit of work, of the kind that the database needs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.execution.driver_unit_of_work import DriverUnitOfWork
from consumer.execution.session_guard import begins, refuse_ends
from consumer.execution.unit_of_work import SessionUnitOfWork, UnitOfWork, sync
from outbox.errors import DatabaseUnavailable
from outbox.runtime.schema_monitor import Gate


class UnitOfWorkFactory:
    """Begins units of work in the database behind *engine*, unless *gate* is closed."""

    def __init__(self, engine: AsyncEngine, gate: Gate | None = None) -> None:
        is_postgres = engine.dialect.name == "postgresql"
        self._kind = DriverUnitOfWork if is_postgres else SessionUnitOfWork
        options = {"isolation_level": "AUTOCOMMIT"} if is_postgres else {}
        self._engine = engine.execution_options(**options)
        refuse_ends(self._engine)
        self._gate = gate or Gate()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[UnitOfWork]:
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
            begins(sync(work.connection))
            await work.begin()
            yield work
        finally:
            await work.end()
