"""
LISTEN and NOTIFY, only while the relay is idle.

Migration 0002 has a trigger on `outbox` that notifies unless it gets a shared advisory lock. An
idle relay holds this lock exclusively; a busy relay releases it, and no transaction pays for
NOTIFY. Of several idle relays one holds the lock, and the others poll.

All outboxes of a database share one channel. A notification names its table, as the lock does, so
a relay ignores those of another schema.

The lock and LISTEN belong to a session, so they have a session of their own. Behind a pooler that
gives each transaction another session this cannot work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import with_deadline
from outbox.database.postgres_connection import DRIVER_ERRORS
from outbox.errors import DatabaseUnavailable

CHANNEL = "outbox"
TIMEOUT = timedelta(seconds=5)
"""How long the server may take to answer; none of these statements waits for a lock."""

# The trigger computes the same number.
_LOCK = "((1870033506::bigint << 32) + 'outbox'::regclass::oid::bigint)"
_TRY_LOCK = sa.text(
    f"SELECT pg_try_advisory_lock({_LOCK}) AS locked, 'outbox'::regclass::oid::text AS outbox"
)
_UNLOCK = sa.text(f"SELECT pg_advisory_unlock({_LOCK})")
# One index each: rows that wait for their time are in neither, however many they are.
HAS_READY = """
SELECT EXISTS (SELECT FROM outbox WHERE not_before IS NULL AND ordering_key IS NULL)
    OR EXISTS (SELECT FROM outbox WHERE not_before IS NULL AND ordering_key IS NOT NULL)
"""
BY_INDEX = "SET enable_seqscan = off; SET enable_bitmapscan = off"


class PostgresWakeup:
    """
    Calls *notify* when rows are committed to the outbox in the database of *engine*.

    Never raises if the database is unavailable: then the wake-up is not armed.
    """

    def __init__(self, engine: AsyncEngine, *, notify: Callable[[], None]) -> None:
        self._engine = engine
        self._notify = notify
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._armed = False
        self._table: str | None = None
        # Both loops of the relay use the one session.
        self._turn = asyncio.Lock()

    @property
    def armed(self) -> bool:
        return self._armed

    async def arm(self) -> bool:
        async with self._turn:
            if self._armed:
                return False
            try:
                async with with_deadline(TIMEOUT):
                    connection = await self._listening()
                    tried = (await connection.execute(_TRY_LOCK)).one()
                self._armed, self._table = bool(tried.locked), tried.outbox
            except DatabaseUnavailable:
                await self.close()
            return self._armed

    async def has_missed(self) -> bool:
        async with self._turn:
            if not self._armed:
                return True
            try:
                # On the session that listens, which it keeps from being taken for lost.
                async with with_deadline(TIMEOUT):
                    found = await self._call(self._driver.fetchval(HAS_READY))
            except DatabaseUnavailable:
                await self.close()
                return True
        return bool(found)

    async def disarm(self) -> None:
        async with self._turn:
            if not self._armed or self._connection is None:
                return
            self._armed = False
            try:
                async with with_deadline(TIMEOUT):
                    await self._connection.execute(_UNLOCK)
            except DatabaseUnavailable:
                await self.close()

    async def close(self) -> None:
        self._armed = False
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            # Not returned to the pool: the session listens, and may hold the lock.
            with suppress(SQLAlchemyError, OSError):
                await connection.invalidate()
            with suppress(SQLAlchemyError, OSError):
                await connection.close()

    async def _listening(self) -> AsyncConnection:
        if self._connection is None:
            self._connection = connection = await self._engine.connect()
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            self._driver = (await connection.get_raw_connection()).driver_connection
            self._driver.add_termination_listener(self._on_end)
            await self._call(self._driver.execute(BY_INDEX))
            await self._call(self._driver.add_listener(CHANNEL, self._on_notification))
        return self._connection

    @staticmethod
    async def _call(answer: Awaitable[Any]) -> Any:
        """Await a call to the driver itself, whose errors SQLAlchemy does not translate."""
        try:
            return await answer
        except DRIVER_ERRORS as error:
            raise DatabaseUnavailable(type(error).__name__) from None

    def _on_notification(self, _by: object, _pid: int, _channel: str, table: str) -> None:
        if self._armed and table == self._table:
            self._notify()

    def _on_end(self, *_connection: object) -> None:
        # No notification can arrive any more, so the relay has to poll, and to arm again.
        if self._armed:
            self._armed = False
            self._notify()
