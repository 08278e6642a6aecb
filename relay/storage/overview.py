"""
What `relay monitor` reads beside the backlog: dead letters and failing messages of all sources.

Statements of consumers' tables are here as well, because the relay does not import the consumer.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.consumer_tables import failing_messages
from outbox.database_time import database_now
from outbox.tables import dead_letters, outbox_targets

MOST_GROUPS = 20
"""The most groups of failing messages that are read, those with most messages."""


@dataclass(frozen=True, slots=True)
class SourceCount:
    """Number of dead *letters* of a source for a reason, and the age of the *oldest*."""

    source: str
    reason: str
    letters: int
    oldest: timedelta


@dataclass(frozen=True, slots=True)
class FailingCount:
    """
    Number of *messages* of a consumer that have failed and wait for their next attempt.

    Args:
        oldest: The time since the first failure of one of them.

    """

    consumer: str
    type: str | None
    error_class: str
    messages: int
    oldest: timedelta


async def now(connection: AsyncConnection) -> datetime:
    """Return the time of the database."""
    return (await connection.execute(sa.select(database_now()))).scalar_one()


async def dead_letter_counts(connection: AsyncConnection) -> list[SourceCount]:
    """Count all dead letters by source and reason; reads only the index dead_letters_source."""
    column = dead_letters.c
    rows = await connection.execute(
        sa.select(column.source, column.reason, sa.func.count(), sa.func.min(column.last_at))
        .group_by(column.source, column.reason)
        .order_by(column.source, column.reason)
    )
    found, at = rows.all(), await now(connection)
    return [
        SourceCount(source, reason, letters, max(at - oldest, timedelta(0)))
        for source, reason, letters, oldest in found
    ]


async def failing_counts(connection: AsyncConnection) -> list[FailingCount]:
    """Count failing messages by consumer, type and class of the error; the largest groups."""
    column = failing_messages.c
    number = sa.func.count().label("number")
    rows = await connection.execute(
        sa.select(
            column.consumer, column.type, column.error_class, number, sa.func.min(column.first_at)
        )
        .group_by(column.consumer, column.type, column.error_class)
        .order_by(number.desc(), column.consumer, column.type, column.error_class)
        .limit(MOST_GROUPS)
    )
    found, at = rows.all(), await now(connection)
    return [
        FailingCount(consumer, type_, error, messages, max(at - oldest, timedelta(0)))
        for consumer, type_, error, messages, oldest in found
    ]


async def targets(connection: AsyncConnection) -> dict[str, str]:
    """Return the exchange of the relay, and the queue of each consumer, by source."""
    column = outbox_targets.c
    recorded = sa.select(column.source, column.target).order_by(column.source)
    return {row.source: row.target for row in await connection.execute(recorded)}
