"""Runs migrations on the database that MQ_DATABASE_URL, or the caller's URL, names."""

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import consumer.storage.tables  # registers processed_messages
from outbox.database.engine import create_engine
from outbox.settings import SharedSettings, load
from outbox.tables import metadata

VERSION_TABLE = "outbox_relay_version"
MIGRATION_LOCK = 7_206_814_771  # any number, the same for all

assert consumer.storage.tables.processed_messages.metadata is metadata  # noqa: S101


def database() -> URL:
    url = context.config.attributes.get("database_url")
    return make_url(url) if url else load(SharedSettings).database


def configure(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    engine = create_engine(database(), pool_size=2, application_name="outbox-relay migrate")
    try:
        if engine.dialect.name == "postgresql":
            await on_postgres(engine)
        else:
            async with engine.begin() as connection:
                await connection.run_sync(configure)
    finally:
        await engine.dispose()


async def on_postgres(engine: AsyncEngine) -> None:
    """
    Migrate, in more than one transaction if a migration requires it.

    If several processes migrate at once, one does and the others wait. The lock has its own
    transaction, which a pooler keeps on one server connection.
    """
    async with engine.begin() as guard, engine.connect() as connection:
        await guard.execute(sa.text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        await connection.run_sync(configure)


def offline() -> None:
    """`alembic upgrade head --sql`: print the statements, for people who run them by hand."""
    dialect = database().get_backend_name()
    context.configure(
        dialect_name=dialect,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
