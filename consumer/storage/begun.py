"""
Redelivered messages that processes of a consumer have begun: how many of them did not come back.

A row has a strike for each process that began the message. The strike is committed before the
handler is called, and the row is deleted once the message is settled or put back, so a row that a
new process finds counts the processes that ended in between.

Only redelivered messages have rows, and parked messages while they are attempted: a message that
the broker delivers for the first time costs no statement here.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer.storage.inserted import raise_not_inserted, verify_inserted
from consumer.storage.tables import ago, begun_deliveries, digest_of
from consumer.storage.values_table import ValuesTable
from outbox.database.errors import driver_errors_translated
from outbox.database_time import database_now
from outbox.runtime.shield import shielded
from outbox.transports.delivery import Delivery

FORGOTTEN_AFTER = timedelta(days=7)
"""The age of a row whose message never came again, such as one of a queue that was purged."""


def identity_of(delivery: Delivery) -> str | None:
    """A digest of the key by which *delivery* is deduplicated; None if it has none."""
    key = delivery.headers.idempotency_key or delivery.message.message_id
    return digest_of(key) if key else None


class BegunDeliveries:
    """The rows of one *consumer* in `begun_deliveries`; methods raise DatabaseUnavailable."""

    def __init__(self, consumer: str, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._consumer = consumer
        self._sessions = sessions

    async def strikes(self, messages: Collection[str]) -> dict[str, int]:
        """The strikes of those of *messages* that have any."""
        table = begun_deliveries.c
        with driver_errors_translated():
            async with self._sessions() as session:
                found = await session.execute(
                    sa.select(table.message, table.strikes).where(self._are(messages))
                )
                return {row.message: row.strikes for row in found}

    async def begin(self, messages: Collection[str]) -> None:
        """Commit a strike for each of *messages*."""
        async with self._transaction() as session:
            dialect = session.get_bind().dialect.name
            rows = _given(dialect).parameters([(message,) for message in sorted(set(messages))])
            result = await session.execute(
                _begin(dialect), {"of_consumer": self._consumer, **rows}
            )
            verify_inserted(result, begun_deliveries, rows=len(set(messages)))

    async def begin_parked(self, session: AsyncSession, parked: int) -> int:
        """
        Add a strike to the parked message with the id *parked*; returns those before it.

        This and the next two methods are part of the transaction of *session*.
        """
        dialect = session.get_bind().dialect.name
        rows = _given(dialect).parameters([(_parked(parked),)])
        strikes = begun_deliveries.c.strikes
        result = await session.execute(
            _begin(dialect).returning(strikes), {"of_consumer": self._consumer, **rows}
        )
        found = result.scalar_one_or_none()
        if found is None:
            raise_not_inserted(begun_deliveries)
        return int(found) - 1

    async def take_back_parked(self, session: AsyncSession, parked: int) -> None:
        """Take back the last strike of a parked message, which did not end its process."""
        await session.execute(self._take_back([_parked(parked)]))

    async def forget_parked(self, session: AsyncSession, parked: int) -> None:
        """Delete the row of a parked message."""
        await session.execute(sa.delete(begun_deliveries).where(self._are([_parked(parked)])))

    async def take_back(self, messages: Collection[str]) -> None:
        """Take back the last strike of each of *messages*: its process was stopped."""
        async with self._transaction() as session:
            await session.execute(self._take_back(messages))

    async def forget(self, messages: Collection[str]) -> None:
        """Delete the rows of *messages*, and those that are older than `FORGOTTEN_AFTER`."""
        table = begun_deliveries.c
        is_old = (table.consumer == self._consumer) & (table.begun_at < ago(FORGOTTEN_AFTER))
        async with self._transaction() as session:
            await session.execute(sa.delete(begun_deliveries).where(self._are(messages) | is_old))

    def _take_back(self, messages: Collection[str]) -> sa.Update:
        table = begun_deliveries
        is_struck = self._are(messages) & (table.c.strikes > 0)
        return sa.update(table).where(is_struck).values(strikes=table.c.strikes - 1)

    def _are(self, messages: Collection[str]) -> sa.ColumnElement[bool]:
        table = begun_deliveries.c
        return (table.consumer == self._consumer) & table.message.in_(list(messages))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        with driver_errors_translated():
            async with self._sessions() as session:
                yield session
                await shielded(session.commit())


def _parked(parked: int) -> str:
    """No digest looks like it."""
    return f"parked {parked}"


@cache
def _given(dialect: str) -> ValuesTable:
    return ValuesTable(dialect, {"message": sa.Text()})


@cache
def _begin(dialect: str) -> Any:
    """Sorted rows, so that two transactions with common messages never deadlock."""
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    table, given = begun_deliveries, _given(dialect).table
    rows = sa.select(
        sa.bindparam("of_consumer", type_=sa.Text), given.c.message, sa.literal(1, sa.Integer)
    )
    if dialect == "sqlite":
        # Without it SQLite takes ON CONFLICT for the condition of a join.
        rows = rows.where(sa.true())
    return (
        insert(table)
        .from_select(["consumer", "message", "strikes"], rows)
        .on_conflict_do_update(
            index_elements=[table.c.consumer, table.c.message],
            set_={"strikes": table.c.strikes + 1, "begun_at": database_now()},
        )
    )
