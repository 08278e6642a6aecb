"""
The database engine for Postgres: asyncpg, verified TLS as libpq's `sslmode` says, READ COMMITTED.
"""

import os
import socket
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.json_value import json_value
from outbox.database.postgres_connect import connect, explicit_arguments
from outbox.database.postgres_connection import (
    WARNINGS,
    PostgresConnection,
    database_error,
    is_unusable,
    refuse_closed,
)
from outbox.postgres_server import server_of
from outbox.postgres_tls import TlsArgument
from outbox.schema_name import SCHEMA

CONNECT_SECONDS = 10

KEEPALIVE = {
    "TCP_KEEPIDLE": 10,  # seconds of silence before the first keepalive probe
    "TCP_KEEPINTVL": 5,  # seconds between probes
    "TCP_KEEPCNT": 3,  # unanswered probes that end the connection
    "TCP_USER_TIMEOUT": 25_000,  # milliseconds until sent data must be acknowledged
}
"""TCP options by which the loss of a Postgres server is detected within 25 seconds."""


def postgres_engine(
    url: URL,
    *,
    pool_size: int,
    application_name: str,
    lock_timeout: timedelta | None,
    schema: str | None,
) -> AsyncEngine:
    """Return an engine for the server of *url*; see `outbox.database.engine.create_engine`."""
    server = server_of(url, os.environ)
    pooled = "pgbouncer" in url.query
    arguments: dict[str, Any] = {
        "async_creator_fn": partial(
            connect, server, TlsArgument(server), pooled=pooled, schema=schema
        ),
        "timeout": CONNECT_SECONDS,
        "connection_class": PostgresConnection,
        "server_settings": {"application_name": application_name},
        **explicit_arguments(server),
    }
    query = {}
    if (cache_size := url.query.get("prepared_statement_cache_size")) is not None:
        query["prepared_statement_cache_size"] = cache_size
    if pooled:
        # A pooler in transaction mode may give each transaction another server connection.
        arguments["statement_cache_size"] = 0
        query["prepared_statement_cache_size"] = "0"
    elif lock_timeout is not None:
        milliseconds = lock_timeout // timedelta(milliseconds=1)
        arguments["server_settings"]["lock_timeout"] = str(milliseconds)
    # By its module: the instrumentation of OpenTelemetry puts another function there.
    engine = sa_asyncio.create_async_engine(
        sa.URL.create("postgresql+asyncpg", database=server.database, query=query),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=False,
        isolation_level="READ COMMITTED",
        execution_options={SCHEMA: schema},
        connect_args=arguments,
        hide_parameters=True,
        json_deserializer=json_value,
    )

    sa.event.listen(engine.sync_engine, "connect", _keep_alive)
    sa.event.listen(engine.sync_engine, "checkout", refuse_closed)
    sa.event.listen(engine.sync_engine, "handle_error", _correct_error)
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


def _correct_error(context: sa.ExceptionContext) -> DBAPIError | None:
    error = context.original_exception
    if is_lost := is_unusable(error):
        context.is_disconnect = True
    elif not isinstance(error, WARNINGS):
        return None
    return database_error(error, is_lost=is_lost)
