"""
Replies that a caller's service gets: every statement on the table `replies` that changes a row.

    the row is     a reply comes     an error reply comes
    waiting        answered          failed
    failed         answered          a duplicate, dropped
    answered       a duplicate       a duplicate

A reply after an error reply is that of a request that was replayed. One that comes after the
deadline is stored too, and counted as late. No row: the request was never recorded in this
database, or was purged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from outbox.database_time import database_now
from outbox.reply_table import replies


class Incoming(StrEnum):
    """What a reply has changed; its value is the label in metrics."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """It is stored, and came after the deadline."""
    DUPLICATE = "duplicate"
    """It has changed nothing: the request has its reply."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A request as it is before a reply is stored; its row is locked.

    Args:
        age: The time since it was recorded.
        left: The time until its deadline, which is negative afterwards.

    """

    request_id: UUID
    state: str
    age: timedelta
    left: timedelta


async def lock(session: AsyncSession, correlation_id: str) -> Waiting | None:
    """The request with *correlation_id*, as it was sent; None if there is none."""
    table = replies.c
    # FOR UPDATE: another copy of the reply waits, and then finds the new state.
    query = (
        sa.select(
            table.request_id,
            table.state,
            table.requested_at,
            table.expires_at,
            database_now().label("now"),
        )
        .where(table.correlation_id == correlation_id)
        .with_for_update()
    )
    row = (await session.execute(query)).first()
    if row is None:
        return None
    age, left = row.now - row.requested_at, row.expires_at - row.now
    return Waiting(row.request_id, row.state, age, left)


def change(found: Waiting, *, is_failure: bool) -> Incoming:
    """What a reply, or an error reply, changes of the request *found*: a pure decision."""
    if found.state == "answered" or (found.state == "failed" and is_failure):
        return Incoming.DUPLICATE
    if found.left < timedelta(0):
        return Incoming.LATE
    return Incoming.FAILED if is_failure else Incoming.ANSWERED


async def store(
    session: AsyncSession, correlation_id: str, *, code: str | None, body: Mapping[str, Any]
) -> None:
    """Store a reply with the columns *body*, or an error reply with the reason *code*."""
    await session.execute(
        sa.update(replies)
        .where(replies.c.correlation_id == correlation_id)
        .values(
            state="answered" if code is None else "failed",
            code=code,
            answered_at=database_now(),
            **body,
        )
    )
