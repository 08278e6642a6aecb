"""
A consumer that records each upload once: `consumer run examples.etl:etl`.

A service creates its own tables in its own migrations. Here `python -m examples.etl` creates the
table in the database of MQ_DATABASE_URL.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from examples.database import create_tables
from outbox import HealthDataMessage

metadata = sa.MetaData()
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("message_id", sa.Uuid(), primary_key=True),
    sa.Column("object_key", sa.Text, nullable=False),
    sa.Column("record_type", sa.Text, nullable=False),
    sa.Column("record_count", sa.Integer),
)

etl = Consumer("etl", bindings=["health.processing.#"])


@etl.on(HealthDataMessage)
async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None:
    """Insert one row, which commits together with the record that the message was processed."""
    upload = message.payload
    await session.execute(
        sa.insert(uploads).values(
            message_id=message.id,
            object_key=f"{upload.bucket}/{upload.key}",
            record_type=upload.record_type,
            record_count=upload.record_count,
        )
    )


if __name__ == "__main__":
    asyncio.run(create_tables(metadata))
