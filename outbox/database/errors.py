"""
Which errors of database drivers a process waits out, and which are the failure of a handler.

A running process repeats its own statements until they succeed, whatever the database answers: an
operator may repair the server, the schema or a privilege meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

from sqlalchemy import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox.database import sqlite_errors, sqlstates
from outbox.database.sqlstates import Cause
from outbox.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from outbox.network_errors import kind_of

NO_PRIVILEGE = "42501"

TRANSLATED = (DBAPIError, PoolTimeoutError, OSError, TimeoutError)
"""The classes of error that `raise_translated` takes."""

_OWN = "_of_the_service"

_STALE_CACHE_ERRORS = ("InvalidCachedStatementError", "OutdatedSchemaCacheError")
"""
Errors of asyncpg, or of SQLAlchemy in their place: another session has changed a table since a
statement was prepared. The driver empties its cache, but the transaction is lost.
"""


def raise_translated(error: BaseException, *, refusals: bool = True) -> NoReturn:
    """
    Raise the error that stands for *error* of a driver, for a statement that is no handler's.

    Raises DatabaseUnavailable for each error of a driver; without *refusals*, for a missing
    privilege the *error* as it is. The cause is dropped, because drivers quote rows in their
    messages.
    """
    if isinstance(error, TRANSLATED) and (refusals or sqlstate(error) != NO_PRIVILEGE):
        raise DatabaseUnavailable(problem_of(error), refused=_is_setting(error)) from None
    raise error


def _is_setting(error: BaseException) -> bool:
    """Return whether a start would fail again until a person changes a setting or the login."""
    return cause_of(error) is Cause.POOLER or (sqlstate(error) or "").startswith(("28", "3D"))


def translated(error: DBAPIError) -> ConfigurationError | Unavailable:
    """Return the error of a command that stands for *error*, whose text may quote a row."""
    if sqlstate(error) == NO_PRIVILEGE:
        return ConfigurationError(
            "the database user lacks a privilege: see Rights on Postgres in docs/how-to/run.md"
        )
    return DatabaseUnavailable(problem_of(error))


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


def cause_of(error: BaseException) -> Cause | None:
    """Return the cause of *error*, or None if it is no error of a database."""
    if not isinstance(error, DBAPIError):
        lost = isinstance(error, (PoolTimeoutError, OSError, TimeoutError))
        return Cause.SESSION if lost else None
    if _has_stale_cache(error):
        return Cause.CONTENTION
    if (state := sqlstate(error)) is not None:
        return sqlstates.cause(state)
    if (code := sqlite_errors.code_of(error.orig)) is not None:
        return sqlite_errors.cause(code)
    if _is_of_argument(error.orig):
        return Cause.VALUE
    lost = error.connection_invalidated or isinstance(error, InterfaceError)
    return Cause.SESSION if lost or _is_connection_loss(error.orig) else Cause.STATEMENT


def is_contention(error: BaseException) -> bool:
    """
    Return whether the same transaction may be retried at once.

    Other transactions blocked it, or the schema changed under a statement.
    """
    return cause_of(error) is Cause.CONTENTION


def is_unavailable(error: BaseException) -> bool:
    """Return whether *error* comes from a database that cannot be reached, or has no room."""
    return cause_of(error) in {Cause.SESSION, Cause.SERVER}


def may_pass(error: BaseException) -> bool:
    """
    Return whether the same statement may succeed now without any repair.

    Other transactions delayed it, or a database was unavailable: that of the process, or one that
    a handler uses as well.
    """
    return cause_of(error) not in {None, Cause.VALUE, Cause.STATEMENT}


def has_lost_statement(error: BaseException) -> bool:
    """Return whether the session has not the prepared statements that the driver believes in."""
    return cause_of(error) is Cause.POOLER


def is_of_server(error: BaseException) -> bool:
    """Return whether the server of the process refused a handler's statement, whatever it is."""
    return cause_of(error) is Cause.SERVER and hasattr(getattr(error, "orig", None), _OWN)


def mark_as_own(context: ExceptionContext) -> None:
    """Mark the error of *context* as one of the engine of the process, for `is_of_server`."""
    with suppress(TypeError):  # see `postgres_connection.WARNINGS`
        setattr(context.original_exception, _OWN, True)


def _has_stale_cache(error: DBAPIError) -> bool:
    causes = (error.orig, getattr(error.orig, "__cause__", None))
    return any(type(cause).__name__ in _STALE_CACHE_ERRORS for cause in causes)


def _is_of_argument(error: BaseException | None) -> bool:
    """Return whether the driver could not encode an argument; the server never received it."""
    return any(isinstance(each, ValueError) for each in (error, getattr(error, "__cause__", None)))


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
    """
    Return the class of *error*, with the code if it is a database's; its text may quote rows.

    Of a group, it has the class of the group and that of its first error.
    """
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__} of {reason_of(error.exceptions[0])}"
    cause = getattr(error, "orig", None) or error
    state = sqlstate(error) or getattr(cause, "sqlite_errorname", None)
    name = type(cause).__name__
    return f"{name} {state}" if state else name


def problem_of(error: BaseException) -> str:
    """Return the meaning of a database *error* in plain words, with its class and its code."""
    reason = reason_of(error)
    if (state := sqlstate(error)) is not None:
        return f"{sqlstates.meaning(state)} ({reason})"
    if (code := sqlite_errors.code_of(getattr(error, "orig", None))) is not None:
        return f"{sqlite_errors.meaning(code)} ({reason})"
    if isinstance(error, PoolTimeoutError):
        return f"no connection of MQ_DATABASE_POOL_SIZE became free in time ({reason})"
    kind = kind_of(getattr(error, "orig", None) or error)
    if kind is None and cause_of(error) is Cause.SESSION:
        kind = "the connection was lost"
    return f"the database: {kind} ({reason})" if kind else reason
