"""
Which errors of database drivers a process waits out, and which are the failure of a handler.

A running process repeats its own statements until they succeed, whatever the database answers: an
operator may repair the server, the schema or a privilege meanwhile.
"""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

from sqlalchemy import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox.database import sqlite_errors, sqlstates
from outbox.database.sqlstates import Cause
from outbox.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from outbox.network_errors import kind_of

NO_PRIVILEGE = "42501"

TRANSLATED = (DBAPIError, PoolTimeoutError, OSError, TimeoutError)
"""The classes of error that `raise_translated` takes."""

_OWN = "_of_the_service"

_SQLSTATE = re.compile("[0-9A-Z]{5}")
_LONGEST_NAME = 120
_MOST_GROUPS = 3

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
    orig = _of_driver(error)
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return state if isinstance(state, str) and _SQLSTATE.fullmatch(state) else None


def _of_driver(error: BaseException) -> BaseException | None:
    """
    Return the error of the driver in *error*, or None.

    Only SQLAlchemy's classes are asked: a handler's error may answer to any attribute with a text
    that quotes a row, or with an error of its own.
    """
    return error.orig if isinstance(error, StatementError) else None


def reason_of(error: BaseException) -> str:
    """
    Return the class of *error*, with the code if it is a database's; its text may quote rows.

    Of a group, it has the class of the group and that of its first error; of groups in groups, the
    classes of the outer ones.
    """
    *groups, first = firsts_of(error)
    names = [class_of(group).__name__ for group in groups[:_MOST_GROUPS]]
    cause = _of_driver(first) or first
    state = sqlstate(first)
    if state is None and isinstance(cause, sqlite3.Error):
        state = getattr(cause, "sqlite_errorname", None)
    name = class_of(cause).__name__
    return " of ".join([*names, f"{name} {state}" if state else name])


def firsts_of(error: BaseException) -> list[BaseException]:
    """Return *error*; of a group also its first error, and so on to one that is no group."""
    found = [error]
    while isinstance(group := found[-1], BaseExceptionGroup):
        # As Python reads it: a class may have another attribute of this name.
        found.append(BaseExceptionGroup.exceptions.__get__(group)[0])
    return found


def class_of(error: BaseException) -> type[BaseException]:
    """
    Return the class of *error* to be named.

    That is its nearest base if a program has made the class with a name that is no identifier, as
    from a text of its own, or longer than any that people write.
    """
    kinds = (kind for kind in type(error).__mro__ if issubclass(kind, BaseException))
    return next(filter(_has_name, kinds))


def _has_name(kind: type[BaseException]) -> bool:
    name = kind.__name__
    return name.isidentifier() and len(name) <= _LONGEST_NAME


def problem_of(error: BaseException) -> str:
    """Return the meaning of a database *error* in plain words, with its class and its code."""
    reason = reason_of(error)
    if (state := sqlstate(error)) is not None:
        return f"{sqlstates.meaning(state)} ({reason})"
    if (code := sqlite_errors.code_of(_of_driver(error))) is not None:
        return f"{sqlite_errors.meaning(code)} ({reason})"
    if isinstance(error, PoolTimeoutError):
        return f"no connection of MQ_DATABASE_POOL_SIZE became free in time ({reason})"
    kind = kind_of(_of_driver(error) or error)
    if kind is None and cause_of(error) is Cause.SESSION:
        kind = "the connection was lost"
    return f"the database: {kind} ({reason})" if kind else reason
