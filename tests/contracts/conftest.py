"""
The outbox stores that the contracts are tried on.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from relay.storage.base import OutboxStore
from relay.storage.postgres import PostgresStore
from relay.storage.sqlite import SqliteStore

NewStore: TypeAlias = Callable[..., OutboxStore]


@pytest.fixture
async def new_store(engine: AsyncEngine) -> AsyncIterator[NewStore]:
    """Makes another store in the database of *engine*."""
    async with AsyncExitStack() as stores:

        def new(**options: Any) -> OutboxStore:
            store: OutboxStore
            if engine.dialect.name == "sqlite":
                store = SqliteStore(engine, **options)
            else:
                store = PostgresStore(engine, publish_timeout=timedelta(seconds=10), **options)
            stores.push_async_callback(store.close)
            return store

        yield new


@pytest.fixture
def store(new_store: NewStore) -> OutboxStore:
    """The store in the database of *engine*; add a new kind to `new_store`."""
    return new_store()
