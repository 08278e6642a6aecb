"""
The database engine of a process, made from `MQ_DATABASE_URL`.

Only the driver of that database is imported: `postgres_engine` or `sqlite_engine`.
"""

from datetime import timedelta
from typing import Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.errors import mark_as_own
from outbox.extras import packages_of

Journal: TypeAlias = Literal["WAL", "DELETE"]
"""With WAL readers and a writer work at the same time; with DELETE the writer's commit waits."""

DEFERRED = {"sqlite_begin": "DEFERRED"}
"""Execution options for transactions that only read; on SQLite they then wait for no writer."""

NOT_DURABLE = {"sqlite_durable": False}
"""Execution options for transactions that a loss of power may undo, on SQLite only."""


def waiting_at_most(wait: timedelta) -> dict[str, float]:
    """Return execution options for transactions that wait for other writers of SQLite."""
    return {"sqlite_busy_seconds": wait.total_seconds()}


def create_engine(
    url: URL,
    *,
    pool_size: int,
    application_name: str,
    lock_timeout: timedelta | None = None,
    schema: str | None = None,
    create: bool = True,
    sqlite_journal: Journal = "WAL",
) -> AsyncEngine:
    """
    Return an engine for *url*, with the asyncio driver of Postgres or SQLite.

    `pg_stat_activity` shows *application_name*. Statements on Postgres wait for a lock no longer
    than *lock_timeout*, and find the tables in *schema* before those of the role's `search_path`;
    behind a pooler the settings of the server and of the role apply. A SQLite file that is missing
    is created, or without *create* refused with SchemaMismatch; it has a *sqlite_journal*.
    Raises ConfigurationError if the driver is not installed.
    """
    if url.drivername.split("+")[0] == "sqlite":
        with packages_of("MQ_DATABASE_URL: SQLite", extra="sqlite"):
            from outbox.database.sqlite_engine import sqlite_engine  # noqa: PLC0415
        engine = sqlite_engine(url, pool_size=pool_size, create=create, journal=sqlite_journal)
    else:
        with packages_of("MQ_DATABASE_URL: Postgres", extra="postgres"):
            from outbox.database.postgres_engine import postgres_engine  # noqa: PLC0415
        engine = postgres_engine(
            url,
            pool_size=pool_size,
            application_name=application_name,
            lock_timeout=lock_timeout,
            schema=schema,
        )
    sa.event.listen(engine.sync_engine, "handle_error", mark_as_own)
    return engine
