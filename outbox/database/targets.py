"""
The record of where each relay and consumer of a schema belongs.

Two services that share a schema would publish each other's events, each to its own exchange; and
two consumers of one name would drop each other's messages as duplicates.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database_time import database_now
from outbox.tables import outbox_targets


async def read(connection: AsyncConnection, source: str) -> str | None:
    """Return the recorded target of *source*, or None if it has none yet."""
    column = outbox_targets.c
    return await connection.scalar(sa.select(column.target).where(column.source == source))


async def register(connection: AsyncConnection, source: str, target: str) -> None:
    """Record *target* for *source*, unless another process has recorded one meanwhile."""
    await connection.execute(_insert(connection, source, target).on_conflict_do_nothing())


async def adopt(connection: AsyncConnection, source: str, target: str) -> None:
    """Record *target* for *source* in place of the recorded one."""
    await connection.execute(
        _insert(connection, source, target).on_conflict_do_update(
            index_elements=[outbox_targets.c.source],
            set_={"target": target, "since": database_now()},
        )
    )


def _insert(
    connection: AsyncConnection, source: str, target: str
) -> postgresql.Insert | sqlite.Insert:
    # ON CONFLICT is not in SQLAlchemy's common API, although both databases have the same syntax.
    is_sqlite = connection.dialect.name == "sqlite"
    insert = sqlite.insert(outbox_targets) if is_sqlite else postgresql.insert(outbox_targets)
    return insert.values(source=source, target=target)
