"""
The statements on `dead_letters` that delete the bodies of old ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database_time import database_now
from outbox.dead_letters.expired_body import START_BYTES
from outbox.dead_letters.store import BODY, Span
from outbox.tables import dead_letters


async def lock(
    connection: AsyncConnection, *, where: sa.ColumnElement[bool], span: Span
) -> Sequence[sa.RowMapping]:
    """
    Return the dead letters of *span* that have a body, locked; skip rows that others have locked.

    They have the columns `id`, `headers`, `content_encoding`, and `start`: the first bytes of the
    body, since a batch of whole ones could be 100 MiB.
    """
    table = dead_letters.c
    start = sa.func.substr(BODY, 1, START_BYTES, type_=sa.LargeBinary).label("start")
    page = sa.select(table.id, table.headers, table.content_encoding, start)
    # SKIP LOCKED: a replay decides about a letter that it has locked, and the next run finds it.
    locked = span.of(page.where(where, table.body_expired_at.is_(None)))
    rows = await connection.execute(locked.with_for_update(skip_locked=True))
    return rows.mappings().all()


async def expire(connection: AsyncConnection, columns: Mapping[int, Mapping[str, Any]]) -> None:
    """Replace *columns* of locked dead letters, by id, and record that their body has expired."""
    names = next(iter(columns.values()))
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    await connection.execute(
        sa.update(dead_letters)
        .where(dead_letters.c.id == sa.bindparam("letter"))
        .values(**values, body_expired_at=database_now()),
        [
            {"letter": id_, **{f"new_{name}": value for name, value in each.items()}}
            for id_, each in columns.items()
        ],
    )
