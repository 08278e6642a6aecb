"""
A relay's store in Postgres, and its database, for a test that calls it itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import create_engine
from relay.storage.postgres import PostgresStore

PUBLISH_TIMEOUT = timedelta(seconds=10)


@asynccontextmanager
async def without_vacuum(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The database of *database_url*; plans must not depend on statistics that are up to date."""
    engine = create_engine(make_url(database_url), pool_size=5, application_name="test")
    try:
        async with engine.begin() as connection:
            off = sa.text("ALTER TABLE outbox SET (autovacuum_enabled = false)")
            await connection.execute(off)
        yield engine
    finally:
        await engine.dispose()


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
