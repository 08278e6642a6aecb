"""
The database engine of a process, made from `MQ_DATABASE_URL`.

Postgres: asyncpg, verified TLS as libpq's `sslmode` says, READ COMMITTED. SQLite: `sqlite_engine`.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from outbox.database.postgres_connection import PostgresConnection, is_spent
from outbox.database.sqlite_engine import sqlite_engine
from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.transports.sqlite.connection import is_trouble

CONNECT_SECONDS = 10

KEEPALIVE = {
    "TCP_KEEPIDLE": 10,  # seconds of silence after which the kernel asks
    "TCP_KEEPINTVL": 5,  # seconds between its questions
    "TCP_KEEPCNT": 3,  # questions without an answer that end the connection
    "TCP_USER_TIMEOUT": 25_000,  # milliseconds for the peer's kernel to acknowledge what was sent
}
"""How a Postgres that has vanished without a word is noticed, within 25 seconds."""

DEFERRED = {"sqlite_begin": "DEFERRED"}
"""Execution options for transactions that only read: on SQLite they then wait for no writer."""

# The server shuts down, starts up, has no room, has ended the session, or is a standby.
_AWAY_STATES = ("08", "53", "57P0", "25P03", "25006")
# Serialization failure, deadlock, lock not available, statement timeout.
_CONTENTION_STATES = ("40001", "40P01", "55P03", "57014")
# A prepared statement is not there, or is there already: the session is another one.
_MIXED_UP_STATES = ("26000", "42P05")
# User or password are wrong, or a right is missing.
_REFUSAL_STATES = ("28", "42501")


def create_engine(
    url: URL, *, pool_size: int, application_name: str, lock_timeout: timedelta | None = None
) -> AsyncEngine:
    """
    An engine for *url*, which may name any driver of Postgres or SQLite; asyncio's is used.

    *application_name* is what `pg_stat_activity` shows. *lock_timeout* is how long statements wait
    for locks on Postgres; behind a pooler the server's own setting counts.
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
        # A pooler in transaction mode gives each transaction another server connection.
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
    sa.event.listen(engine.sync_engine, "handle_error", _throw_away)
    return engine


def _keep_alive(connection: Any, _record: Any) -> None:
    # asyncpg has no option for it, and keeps its transport to itself.
    transport = connection.driver_connection._transport  # noqa: SLF001
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every platform has all of them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _throw_away(context: sa.ExceptionContext) -> DBAPIError | None:
    error = context.original_exception
    if not is_spent(error):
        return None
    context.is_disconnect = True
    return DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=True)


def _encryption(query: dict[str, Any]) -> dict[str, Any]:
    """The driver's argument for the parameters of libpq, which are removed from *query*."""
    mode = query.pop("sslmode", None)
    root = query.pop("sslrootcert", None)
    if mode is None:
        return {}
    if mode != "verify-full":
        return {"ssl": mode}
    return {"ssl": ssl.create_default_context(cafile=str(root) if root else None)}


@contextmanager
def translated(*, refusals: bool = True) -> Iterator[None]:
    """
    Turn what drivers raise for a lost or busy server into DatabaseUnavailable, and for a pooler
    that nobody told us of into ConfigurationError.

    With *refusals* also what they raise for a user who is not let in, or may not do this: who
    has taken a right away, or changed a password, may put it right while the process waits.
    The cause is dropped: drivers quote rows in their messages. Everything else passes.
    """
    try:
        yield
    except (DBAPIError, PoolTimeoutError, OSError, TimeoutError) as error:
        if is_transient(error) or (refusals and _is_refusal(error)):
            raise DatabaseUnavailable(reason_of(error)) from None
        if (sqlstate(error) or "").startswith(_MIXED_UP_STATES):
            raise ConfigurationError(
                "MQ_DATABASE_URL: prepared statements are lost between transactions, as behind a"
                " pooler: add ?pgbouncer=1"
            ) from None
        raise


@asynccontextmanager
async def answering(within: timedelta) -> AsyncIterator[None]:
    """
    `translated`, and a database that does not answer *within* a time counts as away.

    Not for COMMIT: whoever stops waiting for it does not undo it.
    """
    with translated():
        async with asyncio.timeout(within.total_seconds()):
            yield


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed when it is done again later, whoever held it up."""
    return is_away(error) or is_contention(error)


def is_contention(error: BaseException) -> bool:
    """Whether other transactions have held this one up, so that it may be begun anew at once."""
    state = sqlstate(error)
    return state is not None and state.startswith(_CONTENTION_STATES)


def _is_refusal(error: BaseException) -> bool:
    state = sqlstate(error)
    return state is not None and state.startswith(_REFUSAL_STATES)


def is_away(error: BaseException) -> bool:
    """Whether *error* comes from a database that cannot be reached, or has no room."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, (PoolTimeoutError, OSError, TimeoutError))
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_AWAY_STATES)
    lost = error.connection_invalidated or isinstance(error, InterfaceError)
    return lost or is_trouble(error.orig) or _is_connection_loss(error.orig)


def _is_connection_loss(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (OSError, TimeoutError)):
            return True
        error = error.__cause__
    return False


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database *error*, if its driver tells one."""
    orig = getattr(error, "orig", None)
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return str(state) if state else None


def reason_of(error: BaseException) -> str:
    """What may be shown of a database *error*: its class and its code, never its text."""
    cause = getattr(error, "orig", None) or error
    state = sqlstate(error) or getattr(cause, "sqlite_errorname", None)
    name = type(cause).__name__
    return f"{name} {state}" if state else name


async def commit(connection: AsyncConnection) -> None:
    """
    Commit, and let no cancellation come in between: its outcome would be unknown.

    There is no timeout either. A client that stops waiting for a COMMIT does not undo it.
    """
    await uninterrupted(connection.commit())


async def uninterrupted(work: Any) -> None:
    """Wait for the coroutine *work* to its end; a cancellation is raised only after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001, S110 - raised by task.result() below
            pass
    task.result()
    if cancelled is not None:
        raise cancelled
