"""
The engine of the examples, for the database that MQ_DATABASE_URL names.

A service passes the engine that it already has: any engine of SQLAlchemy can record events.
"""

import os

from sqlalchemy import Dialect, MetaData, Table, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def connect() -> AsyncEngine:
    """Return an engine with the asyncio driver of Postgres or SQLite."""
    url = make_url(os.environ.get("MQ_DATABASE_URL", "sqlite:///outbox.db"))
    url = url.set(drivername=_DRIVERS[url.get_backend_name()])
    # Otherwise errors of SQLAlchemy quote rows and bodies, which are health data.
    return create_async_engine(url, hide_parameters=True)


async def create_tables(metadata: MetaData) -> None:
    """Create the tables that are missing; a service does so in its own migrations."""
    engine = connect()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


def upsert(table: Table, dialect: Dialect) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can have ON CONFLICT, in the *dialect* of Postgres or SQLite."""
    return sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)
