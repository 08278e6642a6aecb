"""
Every statement on the table `dead_letters`, except the INSERTs of relay and consumer, and those of
`body_store`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias, assert_never

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database_time import database_now
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.tables import dead_letters

Page: TypeAlias = "sa.Select[tuple[Any, ...]]"

_SIZE = sa.func.length(dead_letters.c.body).label("size_bytes")
BODY = sa.cast(dead_letters.c.body, sa.LargeBinary)
"""SQLite stores text and numbers in this column too."""
_CAUSE = [
    dead_letters.c.type,
    dead_letters.c.reason,
    dead_letters.c.error_class,
    dead_letters.c.error_place,
]
_METADATA = [column for column in dead_letters.c if column.name != "body"]


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """
    Dead letters with one cause: type, reason, and class and place of the last error.

    Args:
        letters: Their number.
        first_at: The earliest of their first failures.
        last_at: The latest time at which one of them was dead-lettered.

    """

    type: str | None
    reason: str
    error_class: str | None
    error_place: str | None
    letters: int
    first_at: datetime
    last_at: datetime


class Order(StrEnum):
    """The order of a list of dead letters; those that are equal in it come by their ids."""

    OLDEST = "oldest"
    NEWEST = "newest"
    ATTEMPTS = "attempts"
    """Most attempts first."""
    TYPE = "type"
    """By type, reason and error."""


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """Number of dead *letters* for a reason, and the age of the *oldest*."""

    reason: str
    letters: int
    oldest: timedelta


@dataclass(frozen=True, slots=True)
class Span:
    """At most *limit* dead letters with ids above *after*, in their order."""

    after: int
    limit: int

    def of(self, page: Page) -> Page:
        """Restrict *page* to this span."""
        column = dead_letters.c.id
        return page.where(column > self.after).order_by(column).limit(self.limit)


class DeadLetters:
    """The dead letters of one *source*: `relay` or the name of a consumer."""

    def __init__(self, source: str) -> None:
        self.source = source

    async def snapshot(self, connection: AsyncConnection) -> Snapshot:
        """Return the time of the database and the newest id, with which a command begins."""
        newest = sa.select(sa.func.max(dead_letters.c.id)).scalar_subquery()
        now, last = (await connection.execute(sa.select(database_now(), newest))).one()
        return Snapshot(now, last or 0)

    async def unknown(self, connection: AsyncConnection, ids: Sequence[int]) -> list[int]:
        """Return those of *ids* that are not dead letters of this source."""
        found = await connection.scalars(
            sa.select(dead_letters.c.id).where(
                dead_letters.c.source == self.source, dead_letters.c.id.in_(ids)
            )
        )
        return sorted(set(ids).difference(found))

    async def groups(
        self, connection: AsyncConnection, selection: Selection, snapshot: Snapshot
    ) -> list[LetterGroup]:
        """Group the dead letters that *selection* matches by their cause, the largest first."""
        matching = (
            sa.select(*_CAUSE, dead_letters.c.first_at, dead_letters.c.last_at)
            .where(selection.where(self.source, snapshot))
            .order_by(dead_letters.c.id)
            .limit(selection.limit)
            .subquery()
        )
        cause = [matching.c[column.name] for column in _CAUSE]
        letters = sa.func.count().label("letters")
        times = sa.func.min(matching.c.first_at), sa.func.max(matching.c.last_at)
        columns: list[Any] = [*cause, letters, *times]
        rows = await connection.execute(
            sa.select(*columns)
            .group_by(*cause)
            .order_by(letters.desc(), *(_nulls_first(column) for column in cause))
        )
        return [LetterGroup(*row) for row in rows]

    async def reason_counts(self, connection: AsyncConnection) -> list[ReasonCount]:
        """Count all dead letters by reason; reads only the index dead_letters_source."""
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

    async def read(
        self,
        connection: AsyncConnection,
        *,
        where: sa.ColumnElement[bool],
        span: Span,
        bodies: bool,
    ) -> Sequence[sa.RowMapping]:
        """Return the dead letters of *span*, with or without *bodies*."""
        page = span.of(_columns_with(bodies=bodies).where(where))
        return (await connection.execute(page)).mappings().all()

    async def listed(
        self,
        connection: AsyncConnection,
        *,
        where: sa.ColumnElement[bool],
        order: Order,
        limit: int,
    ) -> Sequence[sa.RowMapping]:
        """Return at most *limit* dead letters in *order*, without bodies."""
        page = _columns_with(bodies=False).where(where).order_by(*_in(order)).limit(limit)
        return (await connection.execute(page)).mappings().all()

    async def lock(
        self,
        connection: AsyncConnection,
        *,
        where: sa.ColumnElement[bool],
        span: Span,
        bodies: bool,
    ) -> Sequence[sa.RowMapping]:
        """
        Return the dead letters of *span*, locked; skip rows that another transaction has locked.

        SQLite has no such clause and needs none: its transactions begin with the write lock.
        """
        page = span.of(_columns_with(bodies=bodies).where(where)).with_for_update(skip_locked=True)
        return (await connection.execute(page)).mappings().all()

    async def repair(
        self, connection: AsyncConnection, id_: int, columns: Mapping[str, Any]
    ) -> None:
        """Replace the body of a dead letter by *columns*; see `Repair`."""
        await connection.execute(
            sa.update(dead_letters).where(dead_letters.c.id == id_).values(**columns)
        )

    async def expired(
        self, connection: AsyncConnection, selection: Selection, snapshot: Snapshot
    ) -> int:
        """Count the dead letters that *selection* matches and whose body has expired."""
        matching = (
            sa.select(dead_letters.c.body_expired_at)
            .where(selection.where(self.source, snapshot))
            .order_by(dead_letters.c.id)
            .limit(selection.limit)
            .subquery()
        )
        return await connection.scalar(sa.select(sa.func.count(matching.c.body_expired_at))) or 0

    async def delete(self, connection: AsyncConnection, ids: Sequence[int]) -> None:
        """Delete dead letters that this transaction has locked."""
        await connection.execute(sa.delete(dead_letters).where(dead_letters.c.id.in_(ids)))


def _in(order: Order) -> list[sa.ColumnElement[Any]]:
    table = dead_letters.c
    match order:
        case Order.OLDEST:
            return [table.id]
        case Order.NEWEST:
            return [table.id.desc()]
        case Order.ATTEMPTS:
            return [table.attempts.desc(), table.id]
        case Order.TYPE:
            return [*(_nulls_first(column) for column in _CAUSE), table.id]
        case _:
            assert_never(order)


def _nulls_first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """*column* to order by: the databases put nulls on different sides."""
    return column.asc().nulls_first()


def _columns_with(*, bodies: bool) -> Page:
    columns: list[Any] = [*_METADATA, _SIZE]
    return sa.select(*columns, *([BODY.label("body")] if bodies else []))
