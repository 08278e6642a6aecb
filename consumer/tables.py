"""
The table `processed_messages`: what each consumer has done, in the database of its effects.
"""

import sqlalchemy as sa

from outbox.tables import UtcDateTime, database_now, metadata

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
Only `completed` makes a delivery a duplicate. A row becomes completed in the transaction of the
effects it stands for, so that a crash can not separate the two.
"""

retention_index = sa.Index("processed_messages_processed_at", processed_messages.c.processed_at)
