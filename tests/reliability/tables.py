"""
The tables that producers and handlers of a run write besides the product's.

`effects` has no unique key: an event that is applied twice has two rows.
A row of `uploads` commits with its event, so it shows the outcome of a COMMIT without a reply.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

metadata = sa.MetaData()

subjects = sa.Table(
    "subjects",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),
)
"""What ordering keys stand for; who writes an event of a key holds its row."""

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("event_id", sa.Uuid(), primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
)

effects = sa.Table(
    "effects",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("event_id", sa.Uuid(), nullable=False),
    sa.Column("consumer", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column(
        "applied_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.func.clock_timestamp(),
    ),
    sa.Index("effects_consumer_event", "consumer", "event_id"),
)


async def create(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)
