"""
Upgrading the schema, and checking that it is the one that this version needs.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated, is_transient, sqlstate
from outbox.database.sqlite_errors import primary_code
from outbox.errors import ConfigurationError, SchemaMismatch

VERSION_TABLE = "outbox_relay_version"

_NO_PRIVILEGE = "42501"
_NO_DATABASE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def upgrade(database_url: str, revision: str = "head") -> None:
    """
    Migrate the database up to *revision*; must not be called inside a running event loop.

    Raises ConfigurationError if the database does not exist, or refuses the login or a privilege.
    """
    try:
        with _login_errors_translated():
            command.upgrade(_config(database_url), revision)
    except DBAPIError as error:
        if sqlstate(error) != _NO_PRIVILEGE:
            raise
        raise ConfigurationError(
            "the role may not create tables: GRANT CREATE ON the schema to it, or run this as the "
            "owner of the existing tables"
        ) from None


def downgrade(database_url: str, revision: str) -> None:
    """Migrate the database down to *revision*; `base` drops the tables with all their rows."""
    command.downgrade(_config(database_url), revision)


def head() -> str:
    """Return the revision that this version needs."""
    return str(_revisions().get_current_head())


def _revisions() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


async def verify(engine: AsyncEngine) -> None:
    """
    Check that the schema is at `head`.

    Raises SchemaMismatch, whose text names the command to run, and DatabaseUnavailable.
    """
    expected = head()
    found = await _revision(engine)
    if found is None:
        raise SchemaMismatch("the tables are missing: run `relay migrate`")
    if found != expected:
        known = {script.revision for script in _revisions().walk_revisions()}
        remedy = "run `relay migrate`" if found in known else "it belongs to a newer version"
        raise SchemaMismatch(f"the schema is at revision {found} instead of {expected}: {remedy}")


async def _revision(engine: AsyncEngine) -> str | None:
    with driver_errors_translated(), _login_errors_translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            if not await connection.run_sync(lambda c: sa.inspect(c).has_table(VERSION_TABLE)):
                return None
            try:
                row = await connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
            except DBAPIError as error:
                if is_transient(error):
                    raise
                raise SchemaMismatch(f"no privilege: GRANT SELECT ON {VERSION_TABLE}") from None
            found = row.scalar_one_or_none()
            return None if found is None else str(found)


@contextmanager
def _login_errors_translated() -> Iterator[None]:
    """Raise ConfigurationError for a refused login and for a file that is not a database."""
    try:
        yield
    except DBAPIError as error:
        if primary_code(error.orig) in _NO_DATABASE:
            raise ConfigurationError(
                "MQ_DATABASE_URL: the file is not a SQLite database, or is damaged"
            ) from None
        state = sqlstate(error) or ""
        if not state.startswith(("28", "3D")):
            raise
        raise ConfigurationError(
            f"MQ_DATABASE_URL: the server refuses user, password or database ({state})"
        ) from None


def _config(database_url: str | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    if database_url is not None:
        config.attributes["database_url"] = database_url
    return config


def _migrations() -> Path:
    """Return the folder of migrations: inside `outbox` in a wheel, beside it in a checkout."""
    package = Path(outbox.__file__).parent
    installed = package / "_migrations"
    return installed if installed.exists() else package.parent / "migrations"
