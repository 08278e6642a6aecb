"""
Reads the outcome of each event from tables and queues, once the run is idle.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import aio_pika
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumer.storage.tables import parked_messages
from outbox.tables import dead_letters, outbox
from tests.reliability.consumers import FAILS_ALWAYS, FAILS_ONCE, free
from tests.reliability.history import (
    COMMITTED,
    ROLLED_BACK,
    UNKNOWN,
    Applied,
    DeadLettered,
    Leftover,
    Produced,
    Record,
    Waiting,
    of_kind,
)
from tests.reliability.tables import effects, uploads
from tests.support.environment import Environment

RETRIES_EXHAUSTED = "retries_exhausted"
READ_SECONDS = 10
QUEUE_PREFIX = "health_data_processing."

_SAME_EVENT = effects.c.event_id == uploads.c.event_id


class OutcomeReader:
    """Reads the outcomes of a run's history, and passes records to *write*."""

    def __init__(
        self, environment: Environment, engine: AsyncEngine, write: Callable[[Record], None]
    ) -> None:
        self._environment = environment
        self._engine = engine
        self._write = write

    async def record_outcomes(self, history: Sequence[Record]) -> None:
        """Record the outcomes of the events of *history*."""
        async with self._engine.connect() as connection:
            for outcome in await _outcomes(connection, history):
                self._write(outcome)
            for read in (_applied, _failed, _dead_lettered, _in_outbox, _parked):
                async for found in read(connection):
                    self._write(found)
        async for waiting in self._queued():
            self._write(waiting)

    async def _queued(self) -> AsyncIterator[Record]:
        """Record the messages in the queues, and remove them."""
        names = await self._environment.rabbitmq.http.queues(self._environment.vhost)
        async with await aio_pika.connect(self._environment.broker_url) as connection:
            channel = await connection.channel()
            for name in sorted(names):
                queue = await channel.declare_queue(name, passive=True)
                # A queue with a single active consumer cannot be asked for one message at a time.
                messages = queue.iterator(no_ack=True, timeout=READ_SECONDS)
                for _ in range(queue.declaration_result.message_count or 0):
                    message = await anext(messages)
                    yield Waiting(time.time(), consumer_of(name), message.message_id or "")


def consumer_of(queue: str) -> str:
    """The consumer that *queue* belongs to, by the product's names of queues."""
    return queue.removeprefix(QUEUE_PREFIX).partition(".")[0]


async def _outcomes(connection: AsyncConnection, history: Sequence[Record]) -> list[Produced]:
    """Outcomes, from the database, of the events whose producer does not know them."""
    there = set(await connection.scalars(sa.select(uploads.c.event_id)))
    return [
        replace(record, outcome=COMMITTED if UUID(record.id) in there else ROLLED_BACK)
        for record in of_kind(history, Produced)
        if record.outcome == UNKNOWN
    ]


async def _applied(connection: AsyncConnection) -> AsyncIterator[Record]:
    rows = await connection.stream(sa.select(effects).order_by(effects.c.id))
    async for row in rows:
        yield Applied(row.applied_at.timestamp(), row.consumer, str(row.event_id))


async def _failed(connection: AsyncConnection) -> AsyncIterator[Record]:
    """Effects of attempts that failed afterwards: all of them had to be rolled back."""
    attempted = sa.select(sa.func.count()).select_from(effects).join(uploads, _SAME_EVENT)
    for_good = (uploads.c.type == FAILS_ALWAYS) & (effects.c.consumer == free.name)
    once = (uploads.c.type == FAILS_ONCE) & (effects.c.attempt == 1)
    if count := await connection.scalar(attempted.where(for_good | once)):
        yield Leftover(time.time(), "effects of attempts that failed", count)


def reason_in_history(reason: str, *, source: str, type_: str | None) -> str:
    """The *reason* of a dead letter, marked if the event should not have failed in *source*."""
    if type_ == FAILS_ALWAYS and source == free.name:
        return reason
    return f"{reason}, of an event that was not to fail for good in {source}"


async def _dead_lettered(connection: AsyncConnection) -> AsyncIterator[Record]:
    for row in await connection.execute(sa.select(dead_letters)):
        reason = reason_in_history(row.reason, source=row.source, type_=row.type)
        yield DeadLettered(row.last_at.timestamp(), row.source, row.message_id or "", reason)


async def _in_outbox(connection: AsyncConnection) -> AsyncIterator[Record]:
    for id_ in await connection.scalars(sa.select(outbox.c.event_id)):
        yield Waiting(time.time(), "outbox", str(id_))


async def _parked(connection: AsyncConnection) -> AsyncIterator[Record]:
    for row in await connection.execute(sa.select(parked_messages)):
        yield Waiting(time.time(), row.consumer, row.message_id or "")


async def is_idle(environment: Environment, engine: AsyncEngine, consumers: Sequence[str]) -> bool:
    """Whether no event waits: not in the outbox, not parked, and not in a queue."""
    async with engine.connect() as connection:
        for waiting in (outbox, parked_messages):
            if await connection.scalar(sa.select(sa.select(waiting).exists())):
                return False
    depths = await environment.rabbitmq.http.queues(environment.vhost)
    if any(depth.ready or depth.unacked for depth in depths.values()):
        return False
    async with engine.connect() as connection:
        unsettled = [
            await connection.scalar(sa.select(_unsettled(consumer).exists()))
            for consumer in consumers
        ]
    return not any(unsettled)


def _unsettled(consumer: str) -> sa.Select[Any]:
    """Events that *consumer* has neither applied nor dead-lettered."""
    applied = sa.select(effects).where(effects.c.consumer == consumer, _SAME_EVENT)
    dead = sa.select(dead_letters).where(
        dead_letters.c.source == consumer,
        dead_letters.c.message_id == sa.cast(uploads.c.event_id, sa.Text),
    )
    return sa.select(uploads).where(~applied.exists(), ~dead.exists())
