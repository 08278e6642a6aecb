"""
A SQLite file that cannot be written to for a while is an unavailable database.
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from outbox.database.errors import driver_errors_translated
from outbox.errors import DatabaseUnavailable
from tests.support.builders import an_event


@pytest.fixture
async def engine(sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    yield engine
    await engine.dispose()


async def insert(engine: AsyncEngine, *, size: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event(payload="x" * size)))


async def test_a_file_without_room_is_unavailable_until_it_has_some(engine):
    async with engine.begin() as connection:
        pages = await connection.scalar(sa.text("PRAGMA page_count"))
        await connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))

    with pytest.raises(DatabaseUnavailable, match="SQLITE_FULL"), driver_errors_translated():
        await insert(engine, size=100_000)

    async with engine.begin() as connection:
        await connection.execute(sa.text("PRAGMA max_page_count = 1000000"))
    await insert(engine, size=100_000)


async def test_a_permanent_error_of_a_file_is_not_hidden(engine):
    with pytest.raises(sa.exc.IntegrityError), driver_errors_translated():
        async with engine.begin() as connection:
            await connection.execute(sa.text("INSERT INTO outbox (type) VALUES ('t')"))
