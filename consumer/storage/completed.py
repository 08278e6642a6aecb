"""
The records that messages are completed, as replay reads and deletes them.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import COMPLETED, processed_messages
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER


class CompletedMessages:
    """The records that messages of one *consumer* are completed."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def among(
        self, connection: AsyncConnection, kept: Sequence[Any], *, hold: bool
    ) -> list[int]:
        """
        The ids of the letters whose messages are completed.

        With *hold* their records are locked: a consumer that gets a copy waits for them in its own
        upsert, and finds none once they are deleted.
        """
        keys = {letter["id"]: _key(letter) for letter in kept}
        found = sa.select(processed_messages.c.idempotency_key).where(self._completed(keys))
        if hold:
            # In one order, so that two runs never wait for each other.
            found = found.order_by(processed_messages.c.idempotency_key).with_for_update()
        completed = set((await connection.scalars(found)).all())
        return [id_ for id_, key in keys.items() if key in completed]

    async def forget(self, connection: AsyncConnection, kept: Sequence[Any]) -> int:
        """Delete the records that the messages of *kept* are completed; returns how many."""
        keys = {letter["id"]: _key(letter) for letter in kept}
        deleted = await connection.execute(
            sa.delete(processed_messages).where(self._completed(keys))
        )
        return deleted.rowcount

    def _completed(self, keys: dict[int, str | None]) -> sa.ColumnElement[bool]:
        table = processed_messages.c
        return (
            (table.consumer == self._consumer)
            & (table.status == COMPLETED)
            & table.idempotency_key.in_([key for key in keys.values() if key is not None])
        )


def _key(letter: Any) -> str | None:
    """What the message of *letter* is deduplicated by; None if it has no identity."""
    try:
        identity = UUID(letter["message_id"] or "")
    except ValueError:
        return None
    headers = letter["headers"] if isinstance(letter["headers"], dict) else {}
    key = headers.get(IDEMPOTENCY_KEY_HEADER)
    return key if isinstance(key, str) else str(identity)
