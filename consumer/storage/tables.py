"""
The tables of consumers, in the database to which their handlers write.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa

from outbox.tables import (
    Identity,
    UtcDateTime,
    database_now,
    message_columns,
    metadata,
    now_plus,
)

COMPLETED = "completed"
FAILED = "failed"
PROCESSING = "processing"

processed_messages = sa.Table(
    "processed_messages",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("message_id", sa.Uuid(), nullable=False),
    sa.Column("correlation_id", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("owner", sa.Uuid()),
    sa.Column("processing_duration_seconds", sa.Double),
    sa.Column("processed_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.CheckConstraint("status IN ('completed', 'processing', 'failed')", name="status"),
)
"""
Only a row with the status `completed` makes a delivery a duplicate. It gets this status in the
transaction of the effects, so that a crash cannot separate the two.
"""

retention_index = sa.Index(
    "processed_messages_consumer_processed_at",
    processed_messages.c.consumer,
    processed_messages.c.processed_at,
)

parked_messages = sa.Table(
    "parked_messages",
    metadata,
    sa.Column("id", Identity, sa.Identity(), primary_key=True),
    sa.Column("consumer", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False, server_default=database_now()),
    *message_columns(),
    sa.Column("parked_at", UtcDateTime, nullable=False, server_default=database_now()),
    sqlite_autoincrement=True,
)
"""
Parked messages of ordered consumers: the first of a lane waits for its next attempt, at `due_at`,
and those behind it wait for their turn.
"""

lane_index = sa.Index(
    "parked_messages_lane",
    parked_messages.c.consumer,
    parked_messages.c.lane,
    parked_messages.c.id,
)

begun_deliveries = sa.Table(
    "begun_deliveries",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("message", sa.Text, primary_key=True),
    sa.Column("strikes", sa.Integer, nullable=False),
    sa.Column("begun_at", UtcDateTime, nullable=False, server_default=database_now()),
)
"""
Redelivered or parked messages that a process has begun and not settled. `message` is a digest of
the idempotency key, or the id of a parked message; `strikes` counts the processes that have begun
it.
"""


_OTHER_IDS = UUID("6f1c7a52-1d0e-5b1c-9a64-3c1c3f0e7d21")


def as_uuid(message_id: UUID | str) -> UUID:
    """
    The value of the column `message_id`: a UUID, made from an id that is none.

    The id itself is the idempotency key of such a message, unless a header names another.
    """
    return message_id if isinstance(message_id, UUID) else uuid5(_OTHER_IDS, message_id)


def ago(age: timedelta) -> sa.ScalarSelect[Any]:
    """
    The time *age* before now, as a bound up to which an index is read.

    A sub-select, because Postgres evaluates it once: the clock itself may give another time for
    each row, and Postgres then reads all rows and compares each.
    """
    return sa.select(now_plus(sa.literal(-age.total_seconds()))).scalar_subquery()
