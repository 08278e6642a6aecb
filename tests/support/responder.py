"""
A consumer that answers requests, for the tests of them.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, Reject
from outbox import Event
from tests.support.effects import apply, effects

responder = Consumer("responder", bindings=["ask.#"])
auditor = Consumer("auditor", bindings=["ask.#"])


class Sum(BaseModel):
    total: int


@responder.on("ask.sum")
async def add_up(message: Message[list[int]], session: AsyncSession) -> Sum:
    await apply(message, session)
    return Sum(total=sum(message.payload))


@responder.on("ask.nothing")
async def answer_nothing(message: Message[object], session: AsyncSession) -> dict[str, int] | None:
    await apply(message, session)
    return None


@responder.on("ask.event")
async def answer_by_event(message: Message[object], session: AsyncSession) -> Event:
    await apply(message, session)
    return Event("scan.made", b"\x00\x01", content_type="image/png")


@responder.on_batch("ask.list", size=3)
async def answer_list(
    messages: Sequence[Message[int]], session: AsyncSession
) -> list[dict[str, int]]:
    for message in messages:
        await apply(message, session)
    return [{"twice": 2 * message.payload} for message in messages]


@responder.on_leased("ask.outside")
async def answer_outside(message: Message[int]) -> int:
    return message.payload + 1


@responder.on("ask.rejected")
async def reject(message: Message[object], session: AsyncSession) -> int:
    await apply(message, session)
    raise Reject("no_such_device")


@responder.on("ask.failing")
async def fail(message: Message[object], session: AsyncSession) -> int:
    await apply(message, session)
    raise RuntimeError("no luck")


@responder.on("ask.unanswerable")
async def answer_what_cannot_be_sent(message: Message[object], session: AsyncSession) -> object:
    await apply(message, session)
    return object()


async def note(message: Message[object], session: AsyncSession) -> None:
    await session.execute(
        sa.insert(effects).values(event_id=message.id, attempt=1, consumer="auditor")
    )


for event_type in ("ask.sum", "ask.rejected", "ask.late"):
    auditor.on(event_type)(note)
