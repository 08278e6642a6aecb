"""
A relay's store in Postgres, for a test that calls it itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

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
