"""
Key databases for tests, with keys that were made for them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.encryption.digests import digest
from outbox.encryption.key_ring import KeyRing, new_ring
from outbox.encryption.key_tables import encryption_keys
from outbox.key_store import creation
from outbox.key_store.engine import key_engine

SETTING = "MQ_SUBJECT_KEYS_URL"


@dataclass(frozen=True)
class KeyStore:
    """A key database at *url*, with its *engine* and the *ring* of keys that is in it."""

    url: str
    engine: AsyncEngine
    ring: KeyRing

    def digest(self, subject: str) -> bytes:
        """The digest that stands for *subject*."""
        return digest(self.ring.digest_key(), "subject", subject)

    async def rows(self, statement: sa.Executable) -> list[Any]:
        """The rows of *statement*, in its own transaction."""
        async with self.engine.begin() as connection:
            found = await connection.execute(statement)
            return list(found.all()) if found.returns_rows else []

    async def add_key(self, ring: KeyRing) -> None:
        """Insert the keys of *ring*."""
        keys = [
            {"id": key.id, "key": key.key, "active_from": key.active_from} for key in ring.keys
        ]
        await self.rows(sa.insert(encryption_keys).values(keys))


@asynccontextmanager
async def engine_of(url: str) -> AsyncIterator[AsyncEngine]:
    """Connect to the key database at *url*, or create its file."""
    engine = key_engine(
        url,
        setting=SETTING,
        allow_insecure=False,
        application_name="test",
        pool_size=20,
        create=True,
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def key_store(url: str) -> AsyncIterator[KeyStore]:
    """Make a key database at *url*, which has no tables yet."""
    async with engine_of(url) as engine:
        ring = new_ring(datetime.now(UTC) - timedelta(minutes=1))
        assert await creation.create(engine, setting=SETTING, digest_key=ring.digest_key())
        store = KeyStore(url, engine, ring)
        await store.add_key(ring)
        yield store
