"""
The tables of consumers, in the database to which their handlers write.

They stand beside those of the relay, so that `outbox.metadata` has all tables for a producer too;
`consumer.storage` has every statement on them.
"""

import sqlalchemy as sa

from outbox.database_time import UtcDateTime, database_now
from outbox.tables import Identity, message_columns, metadata

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

failing_messages = sa.Table(
    "failing_messages",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("message", sa.Text, primary_key=True),
    sa.Column("message_id", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("error_class", sa.Text, nullable=False),
    sa.Column("error_place", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("last_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Column("due_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.Index("failing_messages_consumer_last_at", "consumer", "last_at"),
)
"""
Messages whose handler has failed and that wait for their next attempt, at `due_at` or later.

`message` is a digest of the idempotency key. `error_class` and `error_place` are the class of the
last error, and the line of the application that raised it; no text of an error is stored.
"""

consumer_generations = sa.Table(
    "consumer_generations",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("partitions", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False, server_default=database_now()),
    sa.CheckConstraint("state IN ('declared', 'current', 'draining', 'retired')", name="state"),
)
"""
The generations of partitions of each consumer; see `consumer.partitions`. Generation 0 is the work
queue itself, with one partition.
"""

consumer_partitions = sa.Table(
    "consumer_partitions",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("owner", sa.Uuid()),
    sa.Column("drained_at", UtcDateTime),
)
"""
The partitions of each generation: the process that reads each, and when its drain marker came.
"""

consumer_members = sa.Table(
    "consumer_members",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("seen_at", UtcDateTime, nullable=False, server_default=database_now()),
)
"""The processes that share the partitions of a consumer; each updates its row every second."""
