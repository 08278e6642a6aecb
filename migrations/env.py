"""Runs migrations on the database that MQ_DATABASE_URL, or the caller's URL, names."""

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import URL, make_url

import consumer.tables  # registers processed_messages
from outbox.runtime.engine import create_engine
from outbox.settings import SharedSettings, load
from outbox.tables import metadata

VERSION_TABLE = "outbox_relay_version"
MIGRATION_LOCK = 7_206_814_771  # any number, the same for all

assert consumer.tables.processed_messages.metadata is metadata  # noqa: S101


def database() -> URL:
    url = context.config.attributes.get("database_url")
    return make_url(url) if url else load(SharedSettings).database


def configure(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Of several processes that migrate at once, one does it and the others find it done.
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        context.run_migrations()


async def online() -> None:
    engine = create_engine(database(), pool_size=2, application_name="outbox-relay migrate")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(configure)
    finally:
        await engine.dispose()


def offline() -> None:
    """`alembic upgrade head --sql`: the statements, for people who run them by hand."""
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
