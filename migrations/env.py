"""Runs migrations on the database that MQ_DATABASE_URL, or the caller's URL, names."""

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine

import consumer.storage.tables  # registers processed_messages
from outbox.cli import start
from outbox.database import location, migrate
from outbox.database.engine import create_engine
from outbox.database.location import VERSION_TABLE
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings, load
from outbox.tables import metadata

MIGRATION_LOCK = 7_206_814_771  # any number, the same for all

assert consumer.storage.tables.processed_messages.metadata is metadata  # noqa: S101


def database() -> URL:
    url = context.config.attributes.get("database_url")
    if url:
        return make_url(url)
    try:
        return load(SharedSettings).database
    except ConfigurationError as error:
        start.fail(error)


def check(connection: sa.Connection) -> None:
    location.check_before_migration(connection, migrate.known_revisions())


def configure(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
    context.config.attributes["location"] = location.find(connection)


def choose_schema(engine: AsyncEngine, schema: str) -> None:
    """Let the tables be found and created in *schema* only."""
    if engine.dialect.name != "postgresql":
        raise ConfigurationError("--schema: a SQLite file has no schemas")
    path = engine.dialect.identifier_preparer.quote_identifier(schema)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _set_search_path(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET search_path TO {path}")
        cursor.close()
        connection.commit()


async def online() -> None:
    engine = create_engine(database(), pool_size=2, application_name="outbox-relay migrate")
    schema = context.config.attributes.get("schema")
    try:
        if schema is not None:
            choose_schema(engine, schema)
        if engine.dialect.name == "postgresql":
            await on_postgres(engine)
        else:
            async with engine.begin() as connection:
                await connection.run_sync(check)
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
        await connection.run_sync(check)
        # Otherwise Alembic would leave the transaction, and its commit, to the caller.
        await connection.rollback()
        await connection.run_sync(configure)


def offline() -> None:
    """`alembic upgrade head --sql`: print the statements, for people who run them by hand."""
    dialect = database().get_backend_name()
    context.configure(
        dialect_name=dialect,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        # Otherwise a percent sign in a statement is printed twice.
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
