"""
A relay's store in Postgres, for a test that calls it itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from relay.storage.postgres import PostgresStore

PUBLISH_TIMEOUT = timedelta(seconds=10)


@asynccontextmanager
async def postgres_store(
    engine: AsyncEngine, *, publish_timeout: timedelta = PUBLISH_TIMEOUT, **options: Any
) -> AsyncIterator[PostgresStore]:
    """A store in the database of *engine*, which gets its connections back at the end."""
    store = PostgresStore(engine, publish_timeout=publish_timeout, **options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def claiming(store: PostgresStore) -> AsyncIterator[AsyncConnection]:
    """A connection with the settings of a claim of *store*, so that statements have its plans."""
    session = await store._sessions.take()
    try:
        yield session.connection
    finally:
        await store._sessions.give_back(session)
