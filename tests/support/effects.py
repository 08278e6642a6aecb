"""
A consumer whose effects can be counted, and the table that it writes.

The table has no unique key: an event that is applied twice has two rows.
"""

import asyncio
import sys
import threading
from contextlib import suppress
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from consumer import Consumer, Message
from outbox import Event, HealthDataMessage, add

metadata = sa.MetaData()
effects = sa.Table(
    "effects",
    metadata,
    sa.Column("event_id", sa.Uuid(), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("consumer", sa.Text, nullable=False, server_default="effects"),
)

consumer = Consumer("effects", bindings=["health.processing.#", "test.#"])


@consumer.on("health.data.uploaded", model=HealthDataMessage)
async def upload(message: Message[HealthDataMessage], session: AsyncSession) -> None:
    assert message.payload.message_id == message.id
    await apply(message, session)


@consumer.on("test.happened")
async def apply(message: Message[object], session: AsyncSession) -> None:
    await session.execute(sa.insert(effects).values(event_id=message.id, attempt=message.attempt))


@consumer.on("test.fails.once")
async def fail_once(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    if message.attempt == 1:
        raise RuntimeError("canary-of-health-data")


@consumer.on("test.fails.always")
async def fail_always(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    raise RuntimeError("canary-of-health-data")


@consumer.on("test.leads.on")
async def lead_on(message: Message[dict[str, str]], session: AsyncSession) -> None:
    await apply(message, session)
    add(session, Event("test.happened", {}, id=UUID(message.payload["next"])))


@consumer.on("test.waits")
async def wait_for_another(message: Message[object], session: AsyncSession) -> None:
    """Hang in the first process that gets the message; the next process succeeds."""
    await apply(message, session)
    print("handler_waits", file=sys.stderr, flush=True)  # noqa: T201
    if not message.redelivered:
        await asyncio.Event().wait()


@consumer.on("test.takes.a.second")
async def take_a_second(message: Message[object], session: AsyncSession) -> None:
    print("handler_works", file=sys.stderr, flush=True)  # noqa: T201
    await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=1)
    await apply(message, session)


@consumer.on("test.blocks.a.thread")
async def block_thread(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    print("handler_waits", file=sys.stderr, flush=True)  # noqa: T201
    await asyncio.to_thread(threading.Event().wait)


@consumer.on("test.breaks.its.transaction")
async def break_transaction(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    with suppress(DBAPIError):
        await session.execute(sa.text("SELECT no_such_column FROM effects"))


@consumer.on("test.rolls.back")
async def roll_back(message: Message[object], session: AsyncSession) -> None:
    await session.rollback()
    await apply(message, session)


@consumer.on("test.fails.at.commit")
async def fail_at_commit(message: Message[object], session: AsyncSession) -> None:
    await session.execute(
        sa.text("CREATE TABLE deferred (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    )
    await session.execute(sa.text("INSERT INTO deferred VALUES (1), (1)"))
    await apply(message, session)


@consumer.on("test.uses.an.unavailable.database")
async def ask_another(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    raise DBAPIError(None, None, Exception(), connection_invalidated=True)


@consumer.on("test.is.cancelled.by.itself")
async def cancel_itself(message: Message[object], session: AsyncSession) -> None:
    await apply(message, session)
    raise asyncio.CancelledError


async def create(connection: AsyncConnection) -> None:
    await connection.run_sync(metadata.create_all)
