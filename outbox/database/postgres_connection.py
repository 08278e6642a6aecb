"""
The asyncpg connection, with two corrections, and the errors that asyncpg raises.

It raises an error for a COMMIT that Postgres turned into a ROLLBACK, and `is_unusable` finds
connections that must be closed although asyncpg reports them open.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError, InvalidatePoolError

Answer = TypeVar("Answer")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Begins a transaction of relay or consumer, whatever the server's default is."""

WARNINGS = asyncpg.PostgresWarning
"""
An error whose SQLSTATE has the class 01 or 02, as a trigger may choose it. Neither asyncpg nor
SQLAlchemy takes it for an error of the database, and no attribute of it can be set.
"""

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    WARNINGS,
)

_LASTING_STATES = {
    asyncpg.ReadOnlySQLTransactionError.sqlstate,
    asyncpg.InvalidSQLStatementNameError.sqlstate,
    asyncpg.DuplicatePreparedStatementError.sqlstate,
}


def is_unusable(error: BaseException) -> bool:
    """
    Return whether *error* shows that the connection must be replaced, even if it is still open.

    - Postgres ended an idle session. Until the stream ends, asyncpg raises an error of its own
      that SQLAlchemy does not recognise as a disconnect.
    - The session is read-only, as after a failover. It stays so; a new one may be writable, or
      reach another server.
    - The session has other prepared statements than asyncpg believes: a pooler replaced it, or a
      statement deallocated them.
    """
    is_lasting = getattr(error, "sqlstate", None) in _LASTING_STATES
    return is_lasting or isinstance(error, asyncpg.InternalClientError)


def refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool replace a connection that its server has closed, and all older ones."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def database_error(error: BaseException, *, is_lost: bool) -> DBAPIError:
    """Return the error that SQLAlchemy would raise for *error* of a driver."""
    return DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=is_lost)


async def answer_of(driver: Any, request: Awaitable[Answer]) -> Answer:
    """
    Return the answer to *request* of the asyncpg connection *driver*, without SQLAlchemy between.

    Raises the errors that SQLAlchemy would; a connection that `is_unusable` afterwards is ended.
    """
    try:
        return await request
    except DRIVER_ERRORS as error:
        if is_unusable(error):
            driver.terminate()
        raise database_error(error, is_lost=driver.is_closed()) from None


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]
    """
    A connection that raises an error for a COMMIT that the server turned into a ROLLBACK.

    Postgres does so when a statement of the transaction failed, even if the error was caught.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Raises InFailedSQLTransactionError for such a COMMIT, and the errors of asyncpg."""
        status: str = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise asyncpg.InFailedSQLTransactionError("the transaction had failed before")
        return status
