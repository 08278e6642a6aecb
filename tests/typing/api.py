"""
Never run, only type-checked: what a user's code looks like to a type checker.
"""

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

import outbox
from consumer import Consumer, Message
from outbox import Event, HealthDataMessage

etl = Consumer("etl", bindings=["health.processing.#"])


@etl.on("health.data.uploaded", model=HealthDataMessage)
async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None:
    size: int = message.payload.file_size_bytes
    outbox.add(session, Event("health.data.loaded", {"size": size}))


@etl.on("anything.else")
async def other(message: Message[dict[str, int]], session: AsyncSession) -> None:
    del message, session


def produce(session: Session, connection: Connection, upload: HealthDataMessage) -> None:
    outbox.add(session, upload, Event("a", 1))
    connection.execute(outbox.insert(upload, Event("a", 1)))


async def produce_async(session: AsyncSession, connection: AsyncConnection) -> None:
    outbox.add(session, Event("a", 1, ordering_key="k"))
    await connection.execute(outbox.insert(Event("a", 1)))
