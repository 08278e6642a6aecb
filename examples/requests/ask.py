"""
The service that asks: `python -m examples.requests.ask warfarin aspirin`.
"""

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import consumer.replies
import outbox
from examples.database import connect
from examples.requests.messages import Interactions, InteractionsAsked
from outbox.errors import RequestFailed, RequestTimedOut


async def interactions(
    sessions: async_sessionmaker[AsyncSession], medications: Sequence[str]
) -> Interactions:
    """Return the answer; raises RequestFailed and RequestTimedOut."""
    asked = InteractionsAsked(medications=list(medications))
    reply = await outbox.request(
        sessions, asked, timeout=timedelta(seconds=10), model=Interactions
    )
    return reply.payload


async def main(medications: Sequence[str]) -> int:
    engine = connect()
    sessions = async_sessionmaker(engine)
    try:
        async with consumer.replies.running():
            found = await interactions(sessions, medications)
    except RequestFailed as error:
        print(f"not answered: {error.code}")
        return 1
    except RequestTimedOut:
        print("not answered in time")
        return 1
    finally:
        await engine.dispose()
    for one, other in found.pairs:
        print(f"{one} and {other}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
