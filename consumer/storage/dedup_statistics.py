"""
Counts and ages of one consumer's rows in the dedup store, for `consumer status`.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import COMPLETED, ago, processed_messages
from outbox.database_time import database_now

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Statistics:
    """
    The messages that a consumer has recorded.

    Args:
        by_status: All messages, by status.
        completed_by_type: Messages completed in the last 24 hours, by type.
        seconds_by_type: The mean time that their handlers took, in seconds.

    """

    by_status: dict[str, int]
    completed_by_type: dict[str, int]
    seconds_by_type: dict[str, float]


async def oldest_row(connection: AsyncConnection, consumer: str) -> timedelta | None:
    """How long ago the oldest row of *consumer* was written; None without any."""
    first = sa.select(sa.func.min(processed_messages.c.processed_at)).where(
        processed_messages.c.consumer == consumer
    )
    times = await connection.execute(sa.select(first.scalar_subquery(), database_now()))
    oldest, now = times.one()
    return None if oldest is None else max(now - oldest, timedelta(0))


async def statistics(connection: AsyncConnection, consumer: str) -> Statistics:
    """Counts of the messages of *consumer*; the count by status reads all of its rows."""
    table = processed_messages
    is_own = table.c.consumer == consumer
    by_status = await connection.execute(
        sa.select(table.c.status, sa.func.count()).where(is_own).group_by(table.c.status)
    )
    seconds = sa.func.avg(table.c.processing_duration_seconds)
    name = sa.cast(table.c.type, sa.Text)  # SQLite stores blobs in this column too
    by_type = (
        await connection.execute(
            sa.select(name, sa.func.count(), seconds)
            .where(is_own, table.c.status == COMPLETED, table.c.processed_at >= ago(DAY))
            .group_by(name)
            .order_by(name)
        )
    ).all()
    return Statistics(
        by_status=dict(by_status.all()),
        completed_by_type={name: count for name, count, _ in by_type},
        seconds_by_type={name: mean for name, _, mean in by_type if mean is not None},
    )
