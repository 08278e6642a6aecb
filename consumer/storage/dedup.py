"""
The dedup store: which messages each consumer has completed.

A row is inserted before the handler runs, in the handler's transaction. A second copy that is
handled at the same time waits for this transaction on the primary key, and then finds a completed
message, or nothing. An attempt that fails leaves no row that would make the next one a duplicate.

Rows of one statement are inserted in the order of their keys: two transactions that have keys in
common wait for each other, and never each for the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from consumer.storage.dedup_statements import (
    COMPLETED,
    FAILED,
    long_ago,
    purging,
    record_statement_of_driver,
    statements,
)
from consumer.storage.tables import processed_messages
from outbox.tables import database_now
from outbox.wire.envelope import Envelope

PURGE_LIMIT = 1_000
DAY = timedelta(days=1)

Entries: TypeAlias = Mapping[str, tuple[Envelope, int]]
"""Envelopes and the numbers of their attempts, by idempotency key."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """
    What a consumer has done.

    Args:
        by_status: Messages by status, in all.
        completed_by_type: Messages completed in the last 24 hours, by type.
        seconds_by_type: How long their handlers took on average.

    """

    by_status: dict[str, int]
    completed_by_type: dict[str, int]
    seconds_by_type: dict[str, float]


@dataclass(frozen=True, slots=True)
class Purged:
    """How many *rows* a purge has deleted, and when the youngest of them had been written."""

    rows: int
    until: datetime | None


class Dedup:
    """The rows of one *consumer* in `processed_messages`."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def record_completed(self, session: AsyncSession, entries: Entries) -> set[str]:
        """
        Record that *entries* are completed by the transaction of *session*.

        Returns the keys that have not been completed before; waits while other transactions are
        at them.
        """
        return await self._record(session, entries, status=COMPLETED)

    async def record_durations(
        self, connection: AsyncConnection, durations: Mapping[str, timedelta]
    ) -> None:
        """
        Add how long the handler worked to completed messages, by idempotency key.

        Rows that others have locked are left out, so that nobody waits.
        """
        of = statements(connection.dialect.name)
        given = [(key, duration.total_seconds()) for key, duration in durations.items()]
        await connection.execute(
            of.record_durations, {"of_consumer": self._consumer, **of.durations.parameters(given)}
        )

    async def failed(self, session: AsyncSession, envelope: Envelope, *, attempt: int) -> bool:
        """
        Record that *envelope* was given up.

        Returns False, and changes nothing, if it has been completed.
        """
        entries = {envelope.idempotency_key: (envelope, attempt)}
        return bool(await self._record(session, entries, status=FAILED))

    async def purge(
        self, connection: AsyncConnection, *, older_than: timedelta, since: datetime | None = None
    ) -> Purged:
        """
        Delete at most `PURGE_LIMIT` rows that are *older_than* this, from *since* on.

        Rows that others have locked are left for the next time, so that nobody waits; those with
        a lease that is not over are not deleted.
        """
        statement = purging(
            connection.dialect.name,
            self._consumer,
            older_than=older_than,
            since=sa.true() if since is None else processed_messages.c.processed_at >= since,
            limit=PURGE_LIMIT,
        )
        times = (await connection.execute(statement)).scalars().all()
        return Purged(len(times), max(times, default=None))

    async def oldest(self, connection: AsyncConnection) -> timedelta | None:
        """How long ago the oldest row was written; None without any."""
        first = sa.select(sa.func.min(processed_messages.c.processed_at)).where(
            processed_messages.c.consumer == self._consumer
        )
        times = await connection.execute(sa.select(first.scalar_subquery(), database_now()))
        oldest, now = times.one()
        return None if oldest is None else max(now - oldest, timedelta(0))

    async def statistics(self, connection: AsyncConnection) -> Statistics:
        """Counts of this consumer's messages; the one by status reads all of its rows."""
        table = processed_messages
        mine = table.c.consumer == self._consumer
        by_status = await connection.execute(
            sa.select(table.c.status, sa.func.count()).where(mine).group_by(table.c.status)
        )
        seconds = sa.func.avg(table.c.processing_duration_seconds)
        by_type = (
            await connection.execute(
                sa.select(table.c.type, sa.func.count(), seconds)
                .where(mine, table.c.status == COMPLETED, table.c.processed_at >= long_ago(DAY))
                .group_by(table.c.type)
                .order_by(table.c.type)
            )
        ).all()
        return Statistics(
            by_status=dict(by_status.all()),
            completed_by_type={name: count for name, count, _ in by_type},
            seconds_by_type={name: mean for name, _, mean in by_type if mean is not None},
        )

    async def record_completed_by_driver(self, driver: Any, entries: Entries) -> set[str]:
        """The same by a connection of asyncpg, in whatever transaction that is."""
        if not entries:
            return set()
        statement = record_statement_of_driver()
        parameters = {
            "of_consumer": self._consumer,
            "as_status": COMPLETED,
            **statements("postgresql").messages.parameters(_given(entries)),
        }
        rows = await driver.fetch(statement.text, *statement.arguments(parameters))
        return {key for (key,) in rows}

    async def _record(self, session: AsyncSession, entries: Entries, *, status: str) -> set[str]:
        if not entries:
            return set()
        given = _given(entries)

        def execute(session: Session) -> set[str]:
            connection = session.connection()
            of = statements(connection.dialect.name)
            parameters: dict[str, Any] = of.messages.parameters(given)
            result = connection.execute(
                of.record, {"of_consumer": self._consumer, "as_status": status, **parameters}
            )
            return {key for (key,) in result}

        # The connection and the statement in one turn: this is done for each message.
        return await session.run_sync(execute)


def _given(entries: Entries) -> list[tuple[Any, ...]]:
    return [
        (key, envelope.id, envelope.correlation_id, envelope.type, attempt)
        for key, (envelope, attempt) in sorted(entries.items())
    ]
