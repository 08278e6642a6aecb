"""
Checking the privileges of the database user at start, before a process needs them.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import driver_errors_translated
from outbox.errors import SchemaMismatch

Rights: TypeAlias = Mapping[sa.Table, Sequence[str]]

# Postgres grants most privileges for single columns too; having some columns counts as having it.
_OF_TABLE = sa.text("SELECT has_table_privilege(:name, :right)")
_OF_COLUMNS = sa.text("SELECT has_any_column_privilege(:name, :right)")


def together(*needed: Rights) -> Rights:
    """Return all rights in *needed*, each once for its table."""
    found: dict[sa.Table, list[str]] = {}
    for each in needed:
        for table, rights in each.items():
            of_table = found.setdefault(table, [])
            of_table += [right for right in rights if right not in of_table]
    return found


async def verify(engine: AsyncEngine, needed: Rights) -> None:
    """
    Check that the user of *engine* has the privileges *needed* on each table; SQLite has none.

    Raises SchemaMismatch with a GRANT for each table that lacks one, and DatabaseUnavailable.
    """
    if engine.dialect.name != "postgresql":
        return
    problems = []
    with driver_errors_translated():
        async with engine.connect() as connection:
            for table, rights in needed.items():
                missing = [
                    right for right in rights if not await _has(connection, table.name, right)
                ]
                if missing:
                    problems.append(f"no privilege: GRANT {', '.join(missing)} ON {table.name}")
    if problems:
        raise SchemaMismatch("\n".join(problems))


async def _has(connection: AsyncConnection, name: str, right: str) -> bool:
    statement = _OF_TABLE if right == "DELETE" else _OF_COLUMNS
    return bool(await connection.scalar(statement, {"name": name, "right": right}))
