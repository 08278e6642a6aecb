"""
The driver's connection to Postgres, with one answer of the server taken more seriously.
"""

from typing import Any

import asyncpg  # type: ignore[import-untyped]


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
