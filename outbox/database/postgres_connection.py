"""
The driver's connection to Postgres, with one answer of the server taken more seriously, and what
the driver raises.
"""

from typing import Any

import asyncpg  # type: ignore[import-untyped]

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_READ_ONLY = asyncpg.ReadOnlySQLTransactionError.sqlstate


def is_spent(error: BaseException) -> bool:
    """
    Whether the connection is of no use any more, whatever the driver says of its being closed.

    When an idle session is ended the driver gives it up: from the server's last words until the
    end of the stream, which may be a while, it raises an error of its own that SQLAlchemy does not
    know. And a session that may only read never learns that it may write again; a new one does,
    or finds another server.
    """
    read_only = getattr(error, "sqlstate", None) == _READ_ONLY
    return read_only or isinstance(error, asyncpg.InternalClientError)


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]
    """
    A connection on which a COMMIT that the server turned into a ROLLBACK is an error.

    So it does with a transaction in which a statement has failed, whoever has swallowed that.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Raises InFailedSQLTransactionError for such a COMMIT, and what the driver raises."""
        status: str = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise asyncpg.InFailedSQLTransactionError("the transaction had failed before")
        return status
