"""
The rows of `dead_letters`: every statement on them has its home here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.dead_letters.selection import Selection, Snapshot
from outbox.tables import database_now, dead_letters

Page: TypeAlias = "sa.Select[tuple[Any, ...]]"

_SIZE = sa.func.length(dead_letters.c.body).label("size_bytes")
_METADATA = [column for column in dead_letters.c if column.name != "body"]


@dataclass(frozen=True, slots=True)
class TypeCount:
    """How many letters of a type were given up for a reason."""

    type: str | None
    reason: str
    letters: int


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many *letters* there are for a reason, and how long ago the *oldest* was given up."""

    reason: str
    letters: int
    oldest: timedelta


@dataclass(frozen=True, slots=True)
class Span:
    """At most *limit* letters whose ids come behind *after*, in their order."""

    after: int
    limit: int

    def of(self, page: Page) -> Page:
        """That part of *page*."""
        column = dead_letters.c.id
        return page.where(column > self.after).order_by(column).limit(self.limit)


class DeadLetters:
    """The letters of one *source*: `relay`, or the name of a consumer."""

    def __init__(self, source: str) -> None:
        self.source = source

    async def snapshot(self, connection: AsyncConnection) -> Snapshot:
        """The state that a command begins with."""
        newest = sa.select(sa.func.max(dead_letters.c.id)).scalar_subquery()
        now, last = (await connection.execute(sa.select(database_now(), newest))).one()
        return Snapshot(now, last or 0)

    async def unknown(self, connection: AsyncConnection, ids: Sequence[int]) -> list[int]:
        """Those of *ids* that are no letters of this source."""
        found = await connection.scalars(
            sa.select(dead_letters.c.id).where(
                dead_letters.c.source == self.source, dead_letters.c.id.in_(ids)
            )
        )
        return sorted(set(ids).difference(found))

    async def tallies(
        self, connection: AsyncConnection, selection: Selection, snapshot: Snapshot
    ) -> list[TypeCount]:
        """How many are meant, by type and reason."""
        meant = (
            sa.select(dead_letters.c.type, dead_letters.c.reason)
            .where(selection.where(self.source, snapshot))
            .order_by(dead_letters.c.id)
            .limit(selection.limit)
            .subquery()
        )
        kinds = sa.select(meant.c.type, meant.c.reason, sa.func.count())
        rows = await connection.execute(
            kinds.group_by(meant.c.type, meant.c.reason).order_by(meant.c.reason, meant.c.type)
        )
        return [TypeCount(*row) for row in rows]

    async def reason_counts(self, connection: AsyncConnection) -> list[ReasonCount]:
        """All letters by reason; reads nothing but the index dead_letters_source."""
        rows = await connection.execute(
            sa.select(dead_letters.c.reason, sa.func.count(), sa.func.min(dead_letters.c.last_at))
            .where(dead_letters.c.source == self.source)
            .group_by(dead_letters.c.reason)
            .order_by(dead_letters.c.reason)
        )
        found = rows.all()
        now = (await connection.execute(sa.select(database_now()))).scalar_one()
        return [
            ReasonCount(reason, letters, max(now - oldest, timedelta(0)))
            for reason, letters, oldest in found
        ]

    async def look(
        self,
        connection: AsyncConnection,
        *,
        where: sa.ColumnElement[bool],
        span: Span,
        bodies: bool,
    ) -> Sequence[sa.RowMapping]:
        """Letters of *span*, with or without *bodies*."""
        page = span.of(_letters(bodies=bodies).where(where))
        return (await connection.execute(page)).mappings().all()

    async def take(
        self,
        connection: AsyncConnection,
        *,
        where: sa.ColumnElement[bool],
        span: Span,
        bodies: bool,
    ) -> Sequence[sa.RowMapping]:
        """
        Likewise, for this transaction alone: rows that another one holds are passed over.

        On SQLite there is no such clause, and no need: its transactions begin with the lock of the
        one writer.
        """
        page = span.of(_letters(bodies=bodies).where(where)).with_for_update(skip_locked=True)
        return (await connection.execute(page)).mappings().all()

    async def repair(self, connection: AsyncConnection, id_: int, body: bytes) -> None:
        """Give the letter another *body*, which is not packed."""
        await connection.execute(
            sa.update(dead_letters)
            .where(dead_letters.c.id == id_)
            .values(body=body, content_encoding=None)
        )

    async def delete(self, connection: AsyncConnection, ids: Sequence[int]) -> None:
        """Remove letters that this transaction has taken."""
        await connection.execute(sa.delete(dead_letters).where(dead_letters.c.id.in_(ids)))


def _letters(*, bodies: bool) -> Page:
    columns: list[Any] = [*_METADATA, _SIZE]
    return sa.select(*columns, *([dead_letters.c.body] if bodies else []))
