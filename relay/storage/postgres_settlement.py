"""
Settling a claim in Postgres.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.tables import outbox
from relay.storage.settlement import Settlement

_IDS = ARRAY(sa.BigInteger)


def _is_one_of(ids: sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    # One parameter for any number of rows: the statement is prepared once.
    return outbox.c.id == sa.any_(ids)


DELETION = sa.delete(outbox).where(_is_one_of(sa.bindparam("ids", type_=_IDS)))
"""Deletes the rows with `ids`. Made once: each batch needs it."""


class PostgresSettlement(Settlement):
    """Settles the rows of a claim in Postgres."""

    def has_id(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        return _is_one_of(sa.bindparam(None, ids, type_=_IDS))

    async def _delete(self, connection: AsyncConnection, ids: Sequence[int]) -> None:
        await self._changed(connection, DELETION, ids, {"ids": ids})

    def message_id(self) -> sa.ColumnElement[str]:
        return sa.cast(outbox.c.event_id, sa.Text)

    def size(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        if isinstance(column.type, sa.Text):
            return sa.func.octet_length(column)
        return sa.func.pg_column_size(column)

    async def _hold(self, connection: AsyncConnection, ids: Sequence[int]) -> set[int]:
        rows = sa.select(outbox.c.id).where(self.has_id(ids)).with_for_update(skip_locked=True)
        return set(await connection.scalars(rows))
