"""
Rows that a key has encrypted, in each table that keeps bodies.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.consumer_tables import parked_messages
from outbox.encryption import body_format
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import EncryptionKey, KeyRing
from outbox.encryption.keys import KeyProvider
from outbox.encryption.subjects import SubjectKey
from outbox.tables import dead_letters, outbox
from outbox.wire import row_codec
from tests.support.builders import LEAK_MARKER, an_event

BODIES = (outbox, dead_letters, parked_messages)
_KEYS = 32


def a_ring(*days_ago: float, digest_key: bytes = b"d" * 32) -> KeyRing:
    """A ring with a key for each of *days_ago*, the time since it is active."""
    now = datetime.now(UTC)
    return KeyRing(
        [
            EncryptionKey(f"key-{days:g}", bytes([number]) * _KEYS, now - timedelta(days=days))
            for number, days in enumerate(days_ago)
        ],
        digest_key,
    )


def write_ring(path: Path, ring: KeyRing) -> str:
    """Write the document of *ring*; returns the value of MQ_ENCRYPTION_KEYS."""
    path.write_text(json.dumps(ring.to_document()))
    path.chmod(0o600)
    return path.as_uri()


class OneSubject:
    """The key of one person, for all who ask."""

    def __init__(self) -> None:
        self.key = SubjectKey(uuid4(), b"s" * _KEYS)

    def key_of(self, _digest: bytes, /) -> SubjectKey:
        return self.key


def a_row(
    keys: KeyProvider | None, *, subject: str | None = None, **fields: Any
) -> dict[str, Any]:
    """The columns of a message with these *fields*, encrypted by *keys*; plain without them."""
    row = row_codec.to_row(an_event(**{"payload": {"note": LEAK_MARKER}, **fields}))
    if keys is None:
        return row
    encryptor = Encryptor(keys, subjects=OneSubject())
    return encryptor.encrypted(row, subject=subject, compression="none")


async def write_rows(engine: AsyncEngine, rows: list[dict[str, Any]]) -> None:
    """Write *rows* into each of the tables."""
    async with engine.begin() as connection:
        await connection.execute(sa.insert(outbox), rows)
        messages = [{**_message(row), "attempts": 1} for row in rows]
        letters = [{**message, "source": "relay", "reason": "x"} for message in messages]
        await connection.execute(sa.insert(dead_letters), letters)
        parked = [{**message, "consumer": "c", "lane": "l"} for message in messages]
        await connection.execute(sa.insert(parked_messages), parked)


async def bodies(engine: AsyncEngine, table: sa.Table = outbox) -> list[bytes]:
    """The bodies in *table*, in the order of their ids."""
    async with engine.connect() as connection:
        return list(await connection.scalars(sa.select(table.c.body).order_by(table.c.id)))


def key_ids(found: list[bytes]) -> list[str]:
    """The key-encryption key of each body; empty for a key of a person."""
    return [body_format.parse(body).key_id for body in found]


def opened(row: dict[str, Any], body: bytes, keys: KeyProvider) -> bytes:
    """The plain body of *row*, whose stored body is now *body*."""
    stored = {**row, "exchange": None, "body": body, "created_at": datetime.now(UTC)}
    found = Decryptor(keys).decrypted(row_codec.from_row(stored), _NO_SUBJECTS)
    return found.body


_NO_SUBJECTS: dict[UUID, Any] = {}


def _message(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in {"event_id", "not_before"}}
    kept.pop("ordering_key")
    return {**kept, "message_id": str(row["event_id"])}
