"""
Whether the database answers at all.
"""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox.database.engine import DEFERRED
from outbox.database.errors import with_deadline

ANSWERS_WITHIN = timedelta(seconds=10)


async def answers(sessions: async_sessionmaker[AsyncSession]) -> bool:
    """
    Ask for nothing but an answer, on SQLite without its lock for writers; always true.

    Raises DatabaseUnavailable.
    """
    async with with_deadline(ANSWERS_WITHIN), sessions() as session:
        await session.connection(execution_options=DEFERRED)
        await session.execute(sa.select(1))
    return True
