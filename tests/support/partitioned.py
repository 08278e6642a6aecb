"""
An ordered consumer with partitions, whose effects show the order of the steps of each key.
"""

import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from tests.support.ordered import steps

consumer = Consumer(
    "partitioned",
    bindings=["test.#"],
    ordered=True,
    partitions=int(os.environ.get("PARTITIONS", "4")),
)


@consumer.on("test.step")
async def step(message: Message[dict], session: AsyncSession) -> None:
    payload = message.payload
    await session.execute(
        sa.insert(steps).values(
            key=payload["key"],
            step=payload["step"],
            attempt=message.attempt,
            process=os.getpid(),
        )
    )
    if message.attempt <= payload.get("fails", 0):
        raise RuntimeError("as the payload says")
