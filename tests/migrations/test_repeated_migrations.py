"""
A migration that gets no lock in one of its steps can be run again, up and down.
"""

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable


@pytest.mark.parametrize("table", ["outbox", "dead_letters", "parked_messages"])
async def test_a_migration_that_got_no_lock_on_a_table_is_run_again(
    empty_postgres_url: str, table: str
) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url, "0015")
    await locked(empty_postgres_url, table, migrate.upgrade)
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url)

    await locked(empty_postgres_url, table, migrate.downgrade, "0015")
    await asyncio.to_thread(migrate.downgrade, empty_postgres_url, "0015")
    await asyncio.to_thread(migrate.upgrade, empty_postgres_url)


async def locked(url: str, table: str, change: Callable[..., object], *to: str) -> None:
    """Change the schema while a transaction reads *table*."""
    engine = create_engine(make_url(url), pool_size=1, application_name="test")
    async with engine.connect() as connection:
        await connection.execute(sa.text(f"SELECT FROM {table}"))
        with pytest.raises(DatabaseUnavailable, match="another session holds a lock"):
            await asyncio.to_thread(change, url, *to)
    await engine.dispose()
