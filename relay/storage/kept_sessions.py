"""
The sessions of Postgres that a relay keeps between its claims.

Each loop of the relay uses one. To take one from the pool for each claim took half as long as to
claim an event.
"""

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.errors import with_deadline
from outbox.errors import DatabaseUnavailable
from relay.storage.postgres_session import PostgresSession


class KeptSessions:
    """
    Sessions of *engine* with *settings*, values of parameters of the server by name.

    Args:
        pooled: Whether each transaction may run in another session of the server.
        timeout: How long the database may take to answer.

    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        settings: Mapping[str, str],
        pooled: bool,
        timeout: timedelta,
    ) -> None:
        self._engine = engine
        self._pooled = pooled
        self._timeout = timeout
        self._settings = sa.select(
            *(
                sa.func.set_config(name, value, sa.true() if pooled else sa.false())
                for name, value in settings.items()
            )
        )
        self._idle: list[PostgresSession] = []

    async def take(self) -> PostgresSession:
        """
        Return a session that no claim uses, without a transaction.

        Raises DatabaseUnavailable.
        """
        while self._idle:
            session = self._idle.pop()
            if session.usable:
                return session
            await session.close()
        async with with_deadline(self._timeout):
            # Behind a pooler a session may be another one in each transaction.
            each_time = self._settings if self._pooled else None
            session = PostgresSession(await self._engine.connect(), settings=each_time)
            try:
                await session.open()
                if not self._pooled:
                    await session.read(self._settings, {})
            except BaseException:
                await session.close()
                raise
        return session

    async def give_back(self, session: PostgresSession) -> None:
        """Roll back changes that were not committed; a lost session has rolled back already."""
        try:
            if session.usable:
                async with with_deadline(self._timeout):
                    await session.rollback()
        except DatabaseUnavailable:
            pass
        finally:
            if session.usable:
                self._idle.append(session)
            else:
                await session.close()

    async def close(self) -> None:
        """Return the sessions that no claim uses to the engine."""
        while self._idle:
            await self._idle.pop().close()
