"""
Upgrading the schema, and checking that it is the one that this version needs.

Alembic is imported by the functions that migrate: it would take an eighth of the memory of a
process that only checks.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import outbox
from outbox.database import compatibility, location, row_access
from outbox.database.engine import DEFERRED
from outbox.database.errors import NO_PRIVILEGE, driver_errors_translated, reason_of, sqlstate
from outbox.database.location import VERSION_TABLE, Location
from outbox.database.sqlite_errors import primary_code
from outbox.errors import ConfigurationError, DatabaseUnavailable, SchemaMismatch
from outbox.schema_name import quoted

if TYPE_CHECKING:
    from alembic.config import Config

VERSION = sa.Table(VERSION_TABLE, sa.MetaData())

_NO_REVISION = "REVISION: there is no such revision"
_NO_LOCK = {"55P03", "40P01"}  # a deadlock ends one of the two
_EXISTS_ALREADY = {"42P07", "42723", "42710"}
_NO_DATABASE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def upgrade(database_url: str, revision: str = "head", *, schema: str | None = None) -> Location:
    """
    Migrate the database up to *revision*; returns where the tables are.

    They are in *schema*, which is created if need be, or in the first one of the role's
    `search_path`. Must not be called inside a running event loop.

    Raises SchemaMismatch if the schema belongs to a newer version or to another program,
    ConfigurationError if there is no such revision or the role may not create tables, and
    DatabaseUnavailable.
    """
    from alembic import command  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = _config(database_url, schema)
    try:
        with _files_checked():
            command.upgrade(config, revision)
    except DBAPIError as error:
        raise _refusal(error) from None
    except CommandError:
        raise ConfigurationError(_NO_REVISION) from None
    migrated: Location = config.attributes["location"]
    return migrated


def print_statements(
    database_url: str, revision: str = "head", *, schema: str | None = None
) -> None:
    """
    Print the SQL of the migrations up to *revision*, or of a range such as `0005:head`.

    No database is asked: the URL only says whether it is Postgres or SQLite. Raises
    ConfigurationError if there is no such revision.
    """
    from alembic import command  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    try:
        command.upgrade(_config(database_url, schema), revision, sql=True)
    except CommandError:
        raise ConfigurationError(_NO_REVISION) from None


def _refusal(error: DBAPIError) -> BaseException:
    """The error to raise for one of the driver; itself if it is none for an operator."""
    state = sqlstate(error)
    if state in _EXISTS_ALREADY:
        return SchemaMismatch(
            "another program has created an index, a function or a trigger of the same name"
            f" ({state}): use a schema of its own for the outbox"
        )
    if state == NO_PRIVILEGE:
        return ConfigurationError(
            "the role may not create tables: GRANT CREATE ON the schema to it, or run this as the "
            "owner of the existing tables"
        )
    if state in _NO_LOCK or primary_code(error.orig) == sqlite3.SQLITE_BUSY:
        return DatabaseUnavailable(
            "another session holds a lock on the tables, so the last step of the migration was "
            f"rolled back: run it again when that session has ended ({reason_of(error)})"
        )
    return error


def downgrade(database_url: str, revision: str) -> None:
    """
    Migrate the database down to *revision*; `base` drops the tables with all their rows.

    Raises DatabaseUnavailable and ConfigurationError, as `upgrade` does.
    """
    from alembic import command  # noqa: PLC0415

    try:
        command.downgrade(_config(database_url), revision)
    except DBAPIError as error:
        raise _refusal(error) from None


def head() -> str:
    """Return the revision that this version needs."""
    return max(known_revisions())


@cache
def known_revisions() -> frozenset[str]:
    """
    Return all revisions that this version knows; each is the number before a file's name.

    They are read once: a newer version may be installed over the files of a process that runs.
    """
    files = (_migrations() / "versions").glob("[0-9]*_*.py")
    return frozenset(file.name.partition("_")[0] for file in files)


def newer(found: Location) -> str | None:
    """Return a warning if the tables that were *found* are newer than this program, or None."""
    return compatibility.warning(found, known_revisions())


async def verify(engine: AsyncEngine) -> Location:
    """
    Check that this program may work on the tables, and that all are in one schema; returns which.

    Their revision is `head`, or a newer one that says that it serves this program as well.

    Raises SchemaMismatch, whose text names the command to run, and DatabaseUnavailable.
    """
    with driver_errors_translated(), _files_checked():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            found = await verify_revision(connection)
            await connection.run_sync(location.verify_one_schema, found.schema)
    return found


async def verify_revision(connection: AsyncConnection) -> Location:
    """
    Check that this program may work on the tables that *connection* finds; returns where they are.

    Raises SchemaMismatch.
    """
    found = await connection.run_sync(_find)
    if found.revision is None:
        hidden = await row_access.problems(connection, {VERSION: ["SELECT"]})
        place = f" in schema {found.schema}" if found.schema else ""
        missing = f"the tables are missing{place}: run `relay migrate`"
        raise SchemaMismatch(*(hidden or [missing]))
    await connection.run_sync(compatibility.check, found, known_revisions())
    return found


def _find(connection: sa.Connection) -> Location:
    try:
        return location.find(connection)
    except DBAPIError as error:
        if sqlstate(error) != NO_PRIVILEGE:
            raise
        of_schema = ""
        if (schema := location.intended(connection)) is not None:
            of_schema = f", and GRANT USAGE ON SCHEMA {quoted(schema)}"
        raise SchemaMismatch(f"no privilege: GRANT SELECT ON {VERSION_TABLE}{of_schema}") from None


@contextmanager
def _files_checked() -> Iterator[None]:
    """Raise ConfigurationError for a file that is not a database."""
    try:
        yield
    except DBAPIError as error:
        if primary_code(error.orig) in _NO_DATABASE:
            raise ConfigurationError(
                "MQ_DATABASE_URL: the file is not a SQLite database, or is damaged"
            ) from None
        raise


def _config(database_url: str, schema: str | None = None) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    config.attributes["schema"] = schema
    return config


def _migrations() -> Path:
    """Return the folder of migrations: inside `outbox` in a wheel, beside it in a checkout."""
    package = Path(outbox.__file__).parent
    installed = package / "_migrations"
    return installed if installed.exists() else package.parent / "migrations"
