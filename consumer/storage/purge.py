"""
The statement that deletes old rows of the dedup store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import PROCESSING, ago, parked_messages, processed_messages
from outbox.database_time import database_now

PURGE_LIMIT = 1_000

_CTID: sa.ColumnElement[Any] = sa.literal_column("processed_messages.ctid")


@dataclass(frozen=True, slots=True)
class Purged:
    """The number of *rows* that a purge has deleted, and when the youngest was written."""

    rows: int
    until: datetime | None


async def purge(
    connection: AsyncConnection,
    consumer: str,
    *,
    older_than: timedelta,
    since: datetime | None = None,
    before: datetime | None = None,
) -> Purged:
    """
    Delete at most `PURGE_LIMIT` rows of *consumer* that are *older_than* this.

    Only rows that were written from *since* on, and before *before*, are read.

    Rows that other transactions have locked stay for the next purge, so that no transaction waits
    for another. Rows with a lease that is not over stay as well.
    """
    statement = _purge(
        connection.dialect.name,
        consumer,
        older_than=older_than,
        bounds=[
            *([] if since is None else [processed_messages.c.processed_at >= since]),
            *([] if before is None else [processed_messages.c.processed_at < before]),
        ],
    )
    times = (await connection.execute(statement)).scalars().all()
    return Purged(len(times), max(times, default=None))


async def parked_since(connection: AsyncConnection, consumer: str) -> datetime | None:
    """When the oldest parked message of *consumer* was parked; reads all of its parked rows."""
    table = parked_messages.c
    oldest: datetime | None = await connection.scalar(
        sa.select(sa.func.min(table.parked_at)).where(table.consumer == consumer)
    )
    return oldest


def _purge(
    dialect: str,
    consumer: str,
    *,
    older_than: timedelta,
    bounds: Sequence[sa.ColumnElement[bool]],
) -> sa.Executable:
    """
    The statement; it deletes the oldest rows first.

    Rows are read from processed_messages_consumer_processed_at and up to the bound, so that the
    young rows of the same consumer, and all rows of others, cost nothing.
    """
    table = processed_messages
    # A lease that is not over belongs to a process at this moment, however long ago it began.
    leased = (table.c.status == PROCESSING) & (table.c.lease_until > database_now())
    is_own = table.c.consumer == sa.bindparam("of_consumer", consumer, type_=sa.Text)
    old = (
        sa.select(table.c.idempotency_key)
        .where(
            is_own,
            table.c.processed_at < ago(older_than),
            *bounds,
            sa.not_(sa.func.coalesce(leased, sa.false())),
        )
        .order_by(table.c.processed_at)
        .limit(PURGE_LIMIT)
    )
    if dialect == "sqlite":
        is_old: sa.ColumnElement[bool] = is_own & table.c.idempotency_key.in_(old)
    else:
        # SKIP LOCKED: a row that another transaction holds stays for the next purge.
        # By ctid, not by key: then no planner statistics, however old, lead to a scan of the
        # table. A row that was updated meanwhile has another ctid, and stays.
        old_ctids = old.with_only_columns(_CTID).with_for_update(skip_locked=True)
        is_old = sa.any_(sa.func.array(old_ctids.scalar_subquery())) == _CTID
    return sa.delete(table).where(is_old).returning(table.c.processed_at)
