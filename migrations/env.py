"""Runs migrations on the database that MQ_DATABASE_URL, or the caller's URL, names."""

import asyncio

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import metadata
from outbox.cli import start
from outbox.database import location, migrate
from outbox.database.engine import create_engine
from outbox.database.location import VERSION_TABLE
from outbox.errors import ConfigurationError
from outbox.schema_name import quoted
from outbox.settings import SharedSettings, load
from outbox.url_checks import database_url

MIGRATION_LOCK = 7_206_814_771  # any number, the same for all
SCHEMA_LOCK = 1_720_681_477  # any other one; the second key is the schema


def target() -> tuple[URL, str | None]:
    """The database and the schema: of the caller, or of the settings."""
    attributes = context.config.attributes
    if url := attributes.get("database_url"):
        found = database_url(url), attributes.get("schema")
    else:
        try:
            settings = load(SharedSettings)
        except ConfigurationError as error:
            start.fail(error)
        found = settings.database, settings.database_schema
    if found[1] is not None and found[0].get_backend_name() != "postgresql":
        raise ConfigurationError("--schema: a SQLite file has no schemas")
    return found


def check(connection: sa.Connection) -> None:
    location.check_before_migration(connection, migrate.known_revisions())


def configure(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    schema = location.intended(connection)
    with context.begin_transaction():
        if schema is not None and not sa.inspect(connection).has_schema(schema):
            connection.execute(sa.schema.CreateSchema(schema))
        context.run_migrations()
    context.config.attributes["location"] = location.find(connection)


def search_only(engine: AsyncEngine, schema: str) -> None:
    """Let tables be found and created in *schema* only."""

    @sa.event.listens_for(engine.sync_engine, "connect")
    def _set_search_path(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET search_path TO {quoted(schema)}")
        cursor.close()
        connection.commit()


async def online() -> None:
    url, schema = target()
    engine = create_engine(
        url, pool_size=2, application_name="outbox-relay migrate", schema=schema
    )
    # A session behind a pooler belongs to other clients too; `check` then refuses another schema.
    if schema is not None and "pgbouncer" not in url.query:
        search_only(engine, schema)
    try:
        if engine.dialect.name == "postgresql":
            await on_postgres(engine, schema)
        else:
            async with engine.begin() as connection:
                await connection.run_sync(check)
                await connection.run_sync(configure)
    finally:
        await engine.dispose()


async def on_postgres(engine: AsyncEngine, schema: str | None) -> None:
    """
    Migrate, in more than one transaction if a migration requires it.

    If several processes migrate one schema at once, one does and the others wait. The locks have
    their own transaction, which a pooler keeps on one server connection. Older versions of this
    program hold the first lock alone, for all schemas.
    """
    locks = sa.select(
        sa.func.pg_advisory_xact_lock_shared(MIGRATION_LOCK),
        sa.func.pg_advisory_xact_lock(
            SCHEMA_LOCK, sa.func.hashtext(schema or sa.func.current_schema(type_=sa.Text))
        ),
    )
    async with engine.begin() as guard, engine.connect() as connection:
        await guard.execute(locks)
        await connection.run_sync(check)
        # Otherwise Alembic would leave the transaction, and its commit, to the caller.
        await connection.rollback()
        await connection.run_sync(configure)


def offline() -> None:
    """Print the statements, for people who run them by hand."""
    url, schema = target()
    context.configure(
        dialect_name=url.get_backend_name(),
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        # Otherwise a percent sign in a statement is printed twice.
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        if schema is not None:
            context.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
            # Not LOCAL: some migrations have more than one transaction.
            context.get_impl().static_output(f"SET search_path TO {quoted(schema)};\n")
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
