"""
Keeping the transaction of a claim alive while a slow broker receives its batch.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.errors import with_deadline
from outbox.errors import DatabaseUnavailable


class SessionKeeper:
    """
    Has *connection* execute a statement *every* so often, until it is stopped.

    Postgres ends a session that is idle in a transaction for too long, as that of a relay whose
    host is gone. A relay that still publishes shows that it is there.
    """

    def __init__(self, connection: AsyncConnection, *, every: timedelta) -> None:
        self._connection = connection
        self._every = every
        self._executing: asyncio.Task[None] | None = None
        self._lost: DatabaseUnavailable | None = None
        # Nearly all batches end before the first one: a timer costs less than a task that waits.
        self._timer = self._started()

    async def stop(self) -> None:
        """
        Execute no further statement; returns when the connection is free.

        Raises DatabaseUnavailable if a statement has failed, and the transaction with it: a
        further one would get an error of SQLAlchemy that does not say so.
        """
        await self.end()
        if self._lost is not None:
            raise self._lost

    async def end(self) -> None:
        """Like `stop`, for a transaction that is not used any more."""
        self._timer.cancel()
        if self._executing is not None:
            await asyncio.wait({self._executing})
            self._timer.cancel()

    def _started(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._every.total_seconds(), self._execute)

    def _execute(self) -> None:
        self._executing = asyncio.create_task(self._keep_alive())

    async def _keep_alive(self) -> None:
        try:
            async with with_deadline(self._every):
                await self._connection.execute(sa.select(sa.literal(1)))
        except DatabaseUnavailable as error:
            self._lost = error
        else:
            self._timer = self._started()


@asynccontextmanager
async def kept_alive(
    connection: AsyncConnection, *, every: timedelta
) -> AsyncIterator[SessionKeeper]:
    """Keep *connection* alive until the block ends, or the keeper is stopped."""
    keeper = SessionKeeper(connection, every=every)
    try:
        yield keeper
    finally:
        await keeper.end()
