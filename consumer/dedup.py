"""
The dedup store: which messages each consumer has completed.

The row is inserted before the handler runs, in the handler's transaction. A second copy that is
handled at the same time waits for this transaction on the primary key, and then finds a completed
message, or nothing. An attempt that fails leaves no row that would make the next one a duplicate.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer.tables import processed_messages
from outbox.event import Envelope
from outbox.tables import database_now, now_plus

COMPLETED = "completed"
FAILED = "failed"

PURGE_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Statistics:
    """
    What a consumer has done.

    Args:
        by_status: Messages by status, in all.
        completed_by_type: Messages completed in the last 24 hours, by type.

    """

    by_status: dict[str, int]
    completed_by_type: dict[str, int]


class Dedup:
    """The rows of one *consumer* in `processed_messages`."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def first_time(self, session: AsyncSession, envelope: Envelope, *, attempt: int) -> bool:
        """
        Record that *envelope* is completed by the transaction of *session*.

        Returns False if it has been completed before; waits while another transaction is at it.
        """
        upsert = self._upsert(session, envelope, attempt=attempt, status=COMPLETED)
        return (await session.execute(upsert)).first() is not None

    async def took(self, session: AsyncSession, envelope: Envelope, duration: timedelta) -> bool:
        """
        Add how long the handler worked on *envelope*.

        Returns False if the record is not there, because the handler has rolled it back.
        """
        result = await session.execute(
            sa.update(processed_messages)
            .where(self._is(envelope))
            .values(processing_duration_seconds=duration.total_seconds())
            .returning(processed_messages.c.attempts)
        )
        return result.first() is not None

    async def failed(self, session: AsyncSession, envelope: Envelope, *, attempt: int) -> None:
        """Record that *envelope* was given up, unless it has been completed."""
        await session.execute(self._upsert(session, envelope, attempt=attempt, status=FAILED))

    async def purge(self, connection: AsyncConnection, *, older_than: timedelta) -> int:
        """Delete at most `PURGE_LIMIT` rows that are *older_than* this; returns how many."""
        table = processed_messages
        old = (
            sa.select(table.c.idempotency_key)
            .where(
                table.c.consumer == self._consumer,
                table.c.processed_at < now_plus(sa.literal(-older_than.total_seconds())),
            )
            .order_by(table.c.processed_at)
            .limit(PURGE_LIMIT)
        )
        if connection.dialect.name == "postgresql":
            old = old.with_for_update(skip_locked=True)
        result = await connection.execute(
            sa.delete(table).where(
                table.c.consumer == self._consumer, table.c.idempotency_key.in_(old)
            )
        )
        return result.rowcount

    async def statistics(self, connection: AsyncConnection) -> Statistics:
        """Counts of this consumer's messages."""
        table = processed_messages
        mine = table.c.consumer == self._consumer
        day = now_plus(sa.literal(-timedelta(days=1).total_seconds()))

        async def tally(column: sa.Column[Any], *where: sa.ColumnElement[bool]) -> dict[str, int]:
            rows = await connection.execute(
                sa.select(column, sa.func.count()).where(mine, *where).group_by(column)
            )
            return dict(rows.all())

        return Statistics(
            by_status=await tally(table.c.status),
            completed_by_type=await tally(
                table.c.type, table.c.status == COMPLETED, table.c.processed_at >= day
            ),
        )

    def _is(self, envelope: Envelope) -> sa.ColumnElement[bool]:
        return (processed_messages.c.consumer == self._consumer) & (
            processed_messages.c.idempotency_key == envelope.idempotency_key
        )

    def _upsert(
        self, session: AsyncSession, envelope: Envelope, *, attempt: int, status: str
    ) -> Any:
        # ON CONFLICT is not in the common part of SQLAlchemy, though both databases read it alike.
        insert = (
            sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        )
        table = processed_messages
        values = {
            "message_id": envelope.id,
            "correlation_id": envelope.correlation_id,
            "type": envelope.type,
            "status": status,
            "attempts": attempt,
        }
        statement = insert(table).values(
            consumer=self._consumer, idempotency_key=envelope.idempotency_key, **values
        )
        return statement.on_conflict_do_update(
            index_elements=[table.c.consumer, table.c.idempotency_key],
            set_={**values, "processed_at": database_now()},
            where=table.c.status != COMPLETED,
        ).returning(table.c.attempts)
