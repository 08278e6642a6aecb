"""
Giving messages up: kept in `dead_letters`, whatever they look like.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from outbox import letters
from outbox.codec import WireMessage
from outbox.tables import dead_letters


async def bury(
    session: AsyncSession,
    message: WireMessage,
    *,
    source: str,
    queue: str,
    reason: str,
    attempts: int,
) -> None:
    """Write *message* into `dead_letters` in the transaction of *session*."""
    await session.execute(
        sa.insert(dead_letters).values(
            source=source,
            queue=queue,
            reason=reason,
            attempts=attempts,
            **letters.to_columns(message),
        )
    )
