"""
Giving messages up: kept in `dead_letters`, whatever they look like.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from outbox.codec import IDEMPOTENCY_KEY_HEADER, WireMessage, priority_of
from outbox.tables import dead_letters

_MAX_TEXT = 1_024


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
            message_id=_text(message.message_id),
            type=_text(message.type),
            exchange=_text(message.exchange),
            routing_key=_text(message.routing_key),
            idempotency_key=_text(message.headers.get(IDEMPOTENCY_KEY_HEADER)),
            correlation_id=_text(message.correlation_id),
            priority=priority_of(message).value,
            headers={_text(name): _plain(value) for name, value in message.headers.items()},
            content_type=_text(message.content_type),
            content_encoding=_text(message.content_encoding),
            body=message.body,
            occurred_at=message.timestamp,
        )
    )


def _text(value: Any) -> str | None:
    """*value* as text that a database takes: Postgres stores no NUL."""
    return value.replace("\0", "")[:_MAX_TEXT] if isinstance(value, str) else None


def _plain(value: Any) -> Any:
    """A header's *value* as JSON; what a broker adds, such as x-death, only by its type."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int) or value is None:
        return value
    return f"<{type(value).__name__}>"
