"""
The messages of a consumer that have failed and wait: in groups, one by one, and how many.

Each reads from failing_messages_consumer_last_at, and no more rows than it says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer.storage.tables import failing_messages
from outbox.database_time import database_now

MOST_COUNTED = 100_000
"""The most messages that are grouped or counted, those that failed last; others are left out."""


@dataclass(frozen=True, slots=True)
class FailingGroup:
    """
    Messages of one type whose last error has this class and this place.

    Args:
        first_failure: How long ago the first of their failures was.
        last_failure: How long ago the last one was.
        next_due: When the next attempt at one of them is due; None if all of them are overdue.

    """

    type: str | None
    error_class: str
    error_place: str
    messages: int
    first_failure: timedelta
    last_failure: timedelta
    next_due: timedelta | None


@dataclass(frozen=True, slots=True)
class FailingMessage:
    """
    A message that has failed *attempts* times; *due* is negative once its next attempt is overdue.

    *message_id* is as the log has it.
    """

    message_id: str | None
    type: str | None
    attempts: int
    error_class: str
    error_place: str
    first_failure: timedelta
    last_failure: timedelta
    due: timedelta


async def groups(connection: AsyncConnection, consumer: str) -> list[FailingGroup]:
    """The failing messages of *consumer* by type, class and place; the largest group first."""
    rows = _latest(consumer, MOST_COUNTED).subquery()
    keys = (rows.c.type, rows.c.error_class, rows.c.error_place)
    number, now = sa.func.count(), database_now()
    due_later = sa.case((rows.c.due_at > now, rows.c.due_at))
    found = await connection.execute(
        sa.select(
            *keys,
            number.label("messages"),
            sa.func.min(rows.c.first_at).label("first_at"),
            sa.func.max(rows.c.last_at).label("last_at"),
            sa.func.min(due_later).label("due_at"),
            now.label("now"),
        )
        .group_by(*keys)
        .order_by(number.desc(), *keys)
    )
    return [
        FailingGroup(
            type=row.type,
            error_class=row.error_class,
            error_place=row.error_place,
            messages=row.messages,
            first_failure=_since(row.first_at, row.now),
            last_failure=_since(row.last_at, row.now),
            next_due=None if row.due_at is None else row.due_at - row.now,
        )
        for row in found
    ]


async def listed(
    connection: AsyncConnection, consumer: str, *, limit: int
) -> list[FailingMessage]:
    """The failing messages of *consumer* that failed last, at most *limit*."""
    rows = await connection.execute(
        _latest(consumer, limit).add_columns(database_now().label("now"))
    )
    return [
        FailingMessage(
            message_id=row.message_id,
            type=row.type,
            attempts=row.attempts,
            error_class=row.error_class,
            error_place=row.error_place,
            first_failure=_since(row.first_at, row.now),
            last_failure=_since(row.last_at, row.now),
            due=row.due_at - row.now,
        )
        for row in rows
    ]


async def counts_by_type(connection: AsyncConnection, consumer: str) -> Mapping[str | None, int]:
    """The number of failing messages of *consumer* by type, at most `MOST_COUNTED` in all."""
    rows = _latest(consumer, MOST_COUNTED).subquery()
    found: Sequence[tuple[str | None, int]] = (
        await connection.execute(
            sa.select(rows.c.type, sa.func.count()).group_by(rows.c.type).order_by(rows.c.type)
        )
    ).all()
    return dict(found)


def _latest(consumer: str, limit: int) -> sa.Select[Any]:
    table = failing_messages.c
    return (
        sa.select(failing_messages)
        .where(table.consumer == consumer)
        .order_by(table.last_at.desc())
        .limit(limit)
    )


def _since(moment: datetime, now: datetime) -> timedelta:
    return max(now - moment, timedelta(0))
