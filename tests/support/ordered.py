"""
An ordered consumer whose effects show the order of their attempts.
"""

import os
from collections import Counter
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer import Consumer, Message
from tests.support.eventually import eventually

metadata = sa.MetaData()
lost: Counter[UUID] = Counter()
steps = sa.Table(
    "steps",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("process", sa.Integer, nullable=False),
)

consumer = Consumer("ordered", bindings=["test.#"], ordered=True)


@consumer.on("test.step", batch_size=int(os.environ.get("BATCH_SIZE", "1")))
async def step(message: Message[dict], session: AsyncSession) -> None:
    """
    Record an attempt, as the payload says.

    Args of the payload: `gate` is a file that the handler waits for; `fails` is how many attempts
    fail; in attempt `loses_in` the session is ended, `loses` times; from the attempt `kills_from`
    on the process ends.
    """
    payload = message.payload
    if message.attempt >= payload.get("kills_from", 99):
        os._exit(9)
    if "gate" in payload:
        gate = Path(payload["gate"])
        reached(gate).touch()
        await eventually(gate.exists, within=60)
    await session.execute(
        sa.insert(steps).values(
            key=payload["key"],
            step=payload["step"],
            attempt=message.attempt,
            process=os.getpid(),
        )
    )
    if message.attempt == payload.get("loses_in", 0) and loses(payload["loses"], message):
        await session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    if message.attempt <= payload.get("fails", 0):
        raise RuntimeError("as the payload says")


def loses(times: int, message: Message[dict]) -> bool:
    """Whether this loss of the session is among the first *times* of *message*; counts it."""
    lost[message.id] += 1
    return lost[message.id] <= times


def reached(gate: Path) -> Path:
    """The file that a handler creates once it waits for *gate*."""
    return gate.with_suffix(".reached")


async def create(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)
