"""
Measures what Postgres reads to execute a statement.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.postgres_connection import PostgresConnection

Statement = tuple[str, Any]


@contextmanager
def recorded(engine: AsyncEngine) -> Iterator[list[Statement]]:
    """Record the statements that *engine* sends, or its driver, with their parameters."""
    statements: list[Statement] = []
    fetch, execute = PostgresConnection.fetch, PostgresConnection.execute

    def record(_connection, _cursor, statement, parameters, _context, _many) -> None:
        statements.append((statement, parameters))

    async def recording_fetch(connection: Any, text: str, *values: Any, **options: Any) -> Any:
        statements.append((text, values))
        return await fetch(connection, text, *values, **options)

    async def recording_execute(connection: Any, text: str, *values: Any, **options: Any) -> str:
        if values:  # without any, it begins or ends a transaction
            statements.append((text, values))
        return await execute(connection, text, *values, **options)

    sa.event.listen(engine.sync_engine, "before_cursor_execute", record)
    try:
        with (
            patch.object(PostgresConnection, "fetch", recording_fetch),
            patch.object(PostgresConnection, "execute", recording_execute),
        ):
            yield statements
    finally:
        sa.event.remove(engine.sync_engine, "before_cursor_execute", record)


async def rows_read(connection: AsyncConnection, statement: Statement) -> int:
    """Execute *statement* and count the rows that Postgres read, in tables and in indexes."""
    text, parameters = statement
    # An index only scan counts the rows it returns; the entries it skips show up as buffers.
    result = await connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", parameters
    )
    return sum(_looked_at(node) for node in _nodes(result.scalar_one()[0]["Plan"]))


async def blocks_read(connection: AsyncConnection, statement: Statement) -> int:
    """Execute *statement*, roll it back, and count the blocks that Postgres read, of all kinds."""
    text, parameters = statement
    result = await connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", parameters
    )
    plan = result.scalar_one()[0]["Plan"]
    await connection.rollback()
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _looked_at(node: dict[str, Any]) -> int:
    if not re.search(r"(Seq|Index|Index Only|Heap|Tid) Scan", node["Node Type"]):
        return 0
    rows = sum(
        node.get(name, 0)
        for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    )
    return int(rows * node["Actual Loops"])
