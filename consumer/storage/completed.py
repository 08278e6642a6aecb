"""
Rows of completed messages in the dedup store, as a replay reads and deletes them.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import COMPLETED, processed_messages
from outbox.errors import UnreadableMessage
from outbox.wire.codec import identity_of
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER


class CompletedMessages:
    """The rows of the completed messages of one *consumer*."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def among(
        self, connection: AsyncConnection, dead_letters: Sequence[Any], *, hold: bool
    ) -> list[int]:
        """
        The ids of those of *dead_letters* whose messages are completed.

        *hold* locks the rows of the messages: a consumer that gets a copy waits for them in its
        own upsert, and finds no row once they are deleted.
        """
        keys = {dead_letter["id"]: key_of(dead_letter) for dead_letter in dead_letters}
        found = sa.select(processed_messages.c.idempotency_key).where(self._completed(keys))
        if hold:
            # In one order, so that two runs never wait for each other.
            found = found.order_by(processed_messages.c.idempotency_key).with_for_update()
        completed = set((await connection.scalars(found)).all())
        return [id_ for id_, key in keys.items() if key in completed]

    async def forget(self, connection: AsyncConnection, dead_letters: Sequence[Any]) -> int:
        """Delete the rows of the messages of *dead_letters*; returns how many."""
        keys = {dead_letter["id"]: key_of(dead_letter) for dead_letter in dead_letters}
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


def key_of(dead_letter: Any) -> str | None:
    """The idempotency key of the message of *dead_letter*; None if the message has no id."""
    message_id = dead_letter["message_id"]
    try:
        # SQLite stores blobs in columns of text too.
        identity = identity_of(message_id if isinstance(message_id, str) else None)
    except UnreadableMessage:
        return None
    headers = dead_letter["headers"] if isinstance(dead_letter["headers"], dict) else {}
    key = headers.get(IDEMPOTENCY_KEY_HEADER)
    return key if isinstance(key, str) and key else str(identity)
