"""
Which errors of database drivers mean unavailable, contention or misconfiguration.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import NoReturn

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox.database.sqlite_errors import is_lock_or_disk_error
from outbox.errors import ConfigurationError, DatabaseUnavailable

# The server shuts down, starts up, has no room, ended the session, or is a standby.
_UNAVAILABLE_STATES = ("08", "53", "57P0", "25P03", "25006")

# Serialization failure, deadlock, lock not available, statement timeout.
_CONTENTION_STATES = ("40001", "40P01", "55P03", "57014")

# A prepared statement is missing or exists already: a pooler changed the server session.
_POOLER_STATES = ("26000", "42P05")

# User or password are wrong, or a privilege is missing.
_REFUSAL_STATES = ("28", "42501")


TRANSLATED = (DBAPIError, PoolTimeoutError, OSError, TimeoutError)
"""The classes of error that `raise_translated` takes."""


def raise_translated(error: BaseException, *, refusals: bool = True) -> NoReturn:
    """
    Raise the error that stands for *error* of a driver.

    Raises DatabaseUnavailable if the server is unreachable or busy. With *refusals* also if it
    refuses the login or the privilege, because an operator may restore either while the process
    waits. Raises ConfigurationError behind a pooler that MQ_DATABASE_URL does not mention, and
    every other error as it is. The cause is dropped, because drivers quote rows in their messages.
    """
    if is_transient(error) or (refusals and _is_refusal(error)):
        raise DatabaseUnavailable(reason_of(error)) from None
    if (sqlstate(error) or "").startswith(_POOLER_STATES):
        raise ConfigurationError(
            "MQ_DATABASE_URL: prepared statements are lost between transactions, as behind a"
            " connection pooler: add ?pgbouncer=1"
        ) from None
    raise error


@contextmanager
def driver_errors_translated(*, refusals: bool = True) -> Iterator[None]:
    """Call `raise_translated` for the errors of a driver that the block raises."""
    try:
        yield
    except TRANSLATED as error:
        raise_translated(error, refusals=refusals)


@asynccontextmanager
async def with_deadline(within: timedelta) -> AsyncIterator[None]:
    """
    Like `driver_errors_translated`; a block longer than *within* raises DatabaseUnavailable.

    Not for COMMIT: a client that stops waiting for a COMMIT does not undo it.
    """
    with driver_errors_translated():
        async with asyncio.timeout(within.total_seconds()):
            yield


def is_transient(error: BaseException) -> bool:
    """Return whether the same work may succeed later: the server was unavailable or busy."""
    return is_unavailable(error) or is_contention(error)


def is_contention(error: BaseException) -> bool:
    """Return whether other transactions blocked this one, so that it may be retried at once."""
    state = sqlstate(error)
    return state is not None and state.startswith(_CONTENTION_STATES)


def _is_refusal(error: BaseException) -> bool:
    state = sqlstate(error)
    return state is not None and state.startswith(_REFUSAL_STATES)


def is_unavailable(error: BaseException) -> bool:
    """Return whether *error* comes from a database that cannot be reached, or has no room."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, (PoolTimeoutError, OSError, TimeoutError))
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_UNAVAILABLE_STATES)
    lost = error.connection_invalidated or isinstance(error, InterfaceError)
    return lost or is_lock_or_disk_error(error.orig) or _is_connection_loss(error.orig)


def _is_connection_loss(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (OSError, TimeoutError)):
            return True
        error = error.__cause__
    return False


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database *error*, or None."""
    orig = getattr(error, "orig", None)
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return str(state) if state else None


def reason_of(error: BaseException) -> str:
    """Return the class and the code of a database *error*; its text may quote rows."""
    cause = getattr(error, "orig", None) or error
    state = sqlstate(error) or getattr(cause, "sqlite_errorname", None)
    name = type(cause).__name__
    return f"{name} {state}" if state else name
