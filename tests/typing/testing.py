"""
Never run, only type-checked: what a user's tests look like to a type checker.
"""

from datetime import timedelta
from typing import ClassVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from consumer import Consumer, Message
from consumer.testing import Settled, a_message, running
from outbox import Event, HealthDataMessage
from outbox.testing import RecordedEvent, assert_not_recorded, assert_recorded, recorded


class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"

    value: int


etl = Consumer("etl", bindings=["#"])


@etl.on("reading.taken", model=Reading)
async def load(message: Message[Reading], session: AsyncSession) -> None: ...


def synchronous(session: Session, connection: sa.Connection) -> None:
    events: list[RecordedEvent] = recorded(session, "reading.taken")
    model: Reading = recorded(connection, Reading)[0].payload_as(Reading)
    matching: list[RecordedEvent] = assert_recorded(
        session, Reading, payload={"value": 1}, count=1, ordering_key=None
    )
    assert_not_recorded(connection, model)
    assert_recorded(session, "a.b", ordering="a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert_recorded(session, "a.b", count="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    del events, matching


async def asynchronous(session: AsyncSession, connection: AsyncConnection) -> None:
    events: list[RecordedEvent] = await recorded(session)
    matching: list[RecordedEvent] = await assert_recorded(connection, "a.b", payload=b"")
    await assert_not_recorded(session, "a.b")
    recorded(session)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    del events, matching


async def one_call(session: AsyncSession) -> None:
    message: Message[Reading] = a_message(Reading(value=1), attempt=2)
    await load(message, session)
    await load(a_message("text"), session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    a_message(1, attempts=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def the_whole_way(upload: HealthDataMessage) -> None:
    async with running(etl, tables=sa.MetaData(), settings={"max_retries": 1}) as app:
        settled: Settled = await app.call("reading.taken", {"value": 1}, attempt=2)
        await app.call(upload, correlation_id="a")
        await app.call(Event("a", 1), attempts=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await app.record(upload, Event("a", 1))
        drained = await app.drain(raises=False)
        errors: list[BaseException] = [failure.error for failure in drained.failures]
        await app.advance(timedelta(minutes=1))
        await app.advance(60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        events: list[RecordedEvent] = app.assert_published("a", count=1)
        async with app.session() as session:
            await session.commit()
        del settled, errors, events
