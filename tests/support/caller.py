"""
A program that asks, and goes on waiting for what an earlier process of it has asked.

    python -m tests.support.caller CALLS DEADLINE_SECONDS

It writes a line for each outcome: the correlation id, and what the caller got.
"""

import asyncio
import sys
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import outbox
from outbox import Event
from outbox.errors import RequestFailed, RequestTimedOut
from outbox.reply_table import replies
from outbox.runtime import process
from outbox.settings import SharedSettings, load
from tests.support.responder import Sum

AT_ONCE = 20


class Caller:
    """Calls the responder, at most 20 times at once."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline: timedelta) -> None:
        self._sessions = sessions
        self._deadline = deadline
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self, calls: int) -> None:
        async with self._sessions() as session:
            asked = list(await session.scalars(sa.select(replies.c.correlation_id)))
        async with asyncio.TaskGroup() as group:
            for correlation_id in asked:
                group.create_task(self._follow(correlation_id))
            for number in range(len(asked), calls):
                group.create_task(self._call(number))

    async def _call(self, number: int) -> None:
        async with self._turns:
            async with self._sessions() as session, session.begin():
                event = Event("ask.sum", [number, 1])
                request = outbox.request_in(session, event, timeout=self._deadline)
            await self._wait(request.correlation_id)

    async def _follow(self, correlation_id: str) -> None:
        async with self._turns:
            await self._wait(correlation_id)

    async def _wait(self, correlation_id: str) -> None:
        try:
            reply = await outbox.replies.wait(self._sessions, correlation_id, model=Sum)
        except RequestTimedOut:
            outcome = "timed_out"
        except RequestFailed as error:
            outcome = error.code
        else:
            outcome = str(reply.payload.total)
        print(f"outcome {correlation_id} {outcome}", flush=True)  # noqa: T201


async def main(calls: int, deadline: timedelta) -> None:
    async with process.database(load(SharedSettings), role="caller") as engine:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        print("caller_started", flush=True)  # noqa: T201
        await Caller(sessions, deadline=deadline).run(calls)
    print("caller_done", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), timedelta(seconds=float(sys.argv[2]))))
