"""
Consumers of events about persons: one that keeps their order, and one that does not.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer import Consumer, Message, Reject

metadata = sa.MetaData()
seen = sa.Table(
    "seen",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("consumer", sa.Text, nullable=False),
    sa.Column("person", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()")),
)
"""An effect, inserted `at` this time by the clock of the server. It has no unique key."""

erased = sa.Table("erased", metadata, sa.Column("person", sa.Integer, nullable=False))
"""A row for each event `subject.erased` that took effect."""

SEEN, STUMBLES, REFUSED = "person.seen", "person.stumbles", "person.refused"
"""Handled at once; in the second attempt; refused, so that it becomes a dead letter."""

ordered = Consumer("ordered", bindings=["person.#"], ordered=True)
free = Consumer("free", bindings=["person.#", "subject.erased"])


@ordered.on(SEEN)
@ordered.on(STUMBLES)
@ordered.on(REFUSED)
async def in_order(message: Message[dict[str, Any]], session: AsyncSession) -> None:
    await apply("ordered", message, session)


@free.on(SEEN)
@free.on(STUMBLES)
@free.on(REFUSED)
async def in_any_order(message: Message[dict[str, Any]], session: AsyncSession) -> None:
    await apply("free", message, session)


@free.on("subject.erased")
async def erase(message: Message[dict[str, str]], session: AsyncSession) -> None:
    person = int(message.payload["subject"].removeprefix("patient-"))
    await session.execute(sa.insert(erased).values(person=person))


async def apply(consumer: str, message: Message[dict[str, Any]], session: AsyncSession) -> None:
    payload = message.payload
    await session.execute(
        sa.insert(seen).values(consumer=consumer, person=payload["person"], step=payload["step"])
    )
    if message.type == STUMBLES and message.attempt == 1:
        raise RuntimeError
    if message.type == REFUSED:
        raise Reject("refused_by_the_test")


async def create(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)
