"""
An ordered consumer whose effects show the order in which they happened.
"""

import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer import Consumer, Message

metadata = sa.MetaData()
steps = sa.Table(
    "steps",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
)

consumer = Consumer("ordered", bindings=["test.#"], ordered=True)


@consumer.on("test.step", batch_size=int(os.environ.get("BATCH_SIZE", "1")))
async def step(message: Message[dict], session: AsyncSession) -> None:
    """Fail as often as the payload says."""
    payload = message.payload
    await session.execute(
        sa.insert(steps).values(key=payload["key"], step=payload["step"], attempt=message.attempt)
    )
    if message.attempt <= payload.get("fails", 0):
        raise RuntimeError("as the payload says")


async def create(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)
