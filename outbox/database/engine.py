"""
The database engine of a process, made from `MQ_DATABASE_URL`.

Postgres: asyncpg, verified TLS as libpq's `sslmode` says, READ COMMITTED. SQLite: `sqlite_engine`.
"""

import socket
import ssl
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox.database.postgres_connection import PostgresConnection, is_unusable
from outbox.database.sqlite_engine import sqlite_engine

CONNECT_SECONDS = 10

KEEPALIVE = {
    "TCP_KEEPIDLE": 10,  # seconds of silence before the first keepalive probe
    "TCP_KEEPINTVL": 5,  # seconds between probes
    "TCP_KEEPCNT": 3,  # unanswered probes that end the connection
    "TCP_USER_TIMEOUT": 25_000,  # milliseconds until sent data must be acknowledged
}
"""TCP options by which the loss of a Postgres server is detected within 25 seconds."""

DEFERRED = {"sqlite_begin": "DEFERRED"}
"""Execution options for transactions that only read; on SQLite they then wait for no writer."""


def create_engine(
    url: URL, *, pool_size: int, application_name: str, lock_timeout: timedelta | None = None
) -> AsyncEngine:
    """
    Return an engine for *url*, with the asyncio driver of Postgres or SQLite.

    `pg_stat_activity` shows *application_name*. Statements on Postgres wait for a lock no longer
    than *lock_timeout*; behind a pooler the setting of the server applies.
    """
    if url.drivername.split("+")[0] == "sqlite":
        return sqlite_engine(url, pool_size=pool_size)
    return _postgres(url, pool_size, application_name, lock_timeout)


def _postgres(
    url: URL, pool_size: int, application_name: str, lock_timeout: timedelta | None
) -> AsyncEngine:
    query = dict(url.query)
    arguments: dict[str, Any] = {
        "timeout": CONNECT_SECONDS,
        "connection_class": PostgresConnection,
        "server_settings": {"application_name": application_name},
        **_encryption(query),
    }
    if query.pop("pgbouncer", None) is not None:
        # A pooler in transaction mode may give each transaction another server connection.
        arguments["statement_cache_size"] = 0
        query["prepared_statement_cache_size"] = "0"
    elif lock_timeout is not None:
        milliseconds = lock_timeout // timedelta(milliseconds=1)
        arguments["server_settings"]["lock_timeout"] = str(milliseconds)
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=False,
        isolation_level="READ COMMITTED",
        connect_args=arguments,
        hide_parameters=True,
    )

    sa.event.listen(engine.sync_engine, "connect", _keep_alive)
    sa.event.listen(engine.sync_engine, "handle_error", _invalidate_connection)
    return engine


def _keep_alive(connection: Any, _record: Any) -> None:
    # asyncpg has no option for keepalive, and its transport is private.
    transport = connection.driver_connection._transport  # noqa: SLF001
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # platforms lack some of them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _invalidate_connection(context: sa.ExceptionContext) -> DBAPIError | None:
    error = context.original_exception
    if not is_unusable(error):
        return None
    context.is_disconnect = True
    return DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=True)


def _encryption(query: dict[str, Any]) -> dict[str, Any]:
    """Move the TLS parameters of libpq from *query* to an argument for the driver."""
    mode = query.pop("sslmode", None)
    root = query.pop("sslrootcert", None)
    if mode is None:
        return {}
    if mode != "verify-full":
        return {"ssl": mode}
    return {"ssl": ssl.create_default_context(cafile=str(root) if root else None)}
