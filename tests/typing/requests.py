"""
Requests as callers and handlers write them: only type-checked.
"""

from datetime import timedelta
from typing import Any, ClassVar, assert_type

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import outbox
from consumer import Consumer, Message

minute = timedelta(minutes=1)
checker = Consumer("checker", bindings=["interactions.#"])


class Asked(BaseModel):
    event_type: ClassVar[str] = "interactions.asked"
    medications: list[str]


class Interactions(BaseModel):
    pairs: list[tuple[str, str]]


async def ask(sessions: async_sessionmaker[AsyncSession]) -> None:
    asked = Asked(medications=["warfarin"])
    reply = await outbox.request(sessions, asked, timeout=minute, model=Interactions)
    assert_type(reply.payload, Interactions)
    plain = await outbox.request(sessions, asked, timeout=minute)
    assert_type(plain, outbox.Reply[Any])


async def ask_in(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions() as session, session.begin():
        request = outbox.request_in(session, Asked(medications=[]), timeout=minute)
    found = await outbox.replies.get(sessions, request.correlation_id, model=Interactions)
    assert_type(found, outbox.Reply[Interactions] | None)


@checker.on(Asked)
async def check(message: Message[Asked], session: AsyncSession) -> Interactions:
    del message, session
    return Interactions(pairs=[])
