"""
The status of a consumer: processed messages, queues, parked messages, dead letters. Read only.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import checks
from consumer.assembly import broker, database, queues
from consumer.consumer import Consumer
from consumer.queues import ConsumerQueues
from consumer.settings import ConsumerSettings
from consumer.storage.dedup_statistics import Statistics, oldest_row, statistics
from consumer.storage.parked import ParkedMessages
from outbox.database import migrate, privileges
from outbox.dead_letters.source import reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.transports.base import Transport


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """
    The messages of one type that were completed in the last 24 hours.

    *mean_duration* is that of the handler calls whose duration was recorded.
    """

    completed: int
    mean_duration: timedelta | None


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue; *messages* and *consumers* are None if it does not exist."""

    queue: str
    messages: int | None
    consumers: int | None


@dataclass(frozen=True, slots=True)
class ParkedStatus:
    """The number of parked messages, and the age of the oldest."""

    messages: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True)
class DedupStatus:
    """The age of the oldest row of the dedup store, the retention, and the horizon."""

    oldest: timedelta | None
    retention: timedelta
    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Status:
    """
    The output of `consumer status`.

    Args:
        processed: The number of rows in the dedup store.
        parked: None for a consumer that is not ordered and has no parked messages.

    """

    consumer: str
    processed: int
    by_status: dict[str, int]
    last_24_hours: dict[str, TypeStatus]
    queues: list[QueueState]
    dead_letters: list[ReasonCount]
    parked: ParkedStatus | None
    dedup: DedupStatus


async def read_status(
    name: str,
    engine: AsyncEngine,
    broker: Transport,
    *,
    queues: ConsumerQueues,
    retention: timedelta,
    horizon: timedelta,
) -> Status:
    """
    The status of the consumer *name*, which has *queues*.

    Raises DatabaseUnavailable and BrokerUnavailable.
    """
    async with reading(engine) as connection:
        found = await statistics(connection, name)
        oldest = await oldest_row(connection, name)
        reason_counts = await DeadLetters(name).reason_counts(connection)
        parked = ParkedStatus(*await ParkedMessages(name).waiting(connection))
    return Status(
        consumer=name,
        processed=sum(found.by_status.values()),
        by_status=found.by_status,
        last_24_hours=_by_type(found),
        queues=[
            await _state(broker, queue)
            for queue in (queues.name, *queues.retry_queues.values(), queues.dead)
        ],
        dead_letters=reason_counts,
        parked=parked if parked.messages or queues.single_active else None,
        dedup=DedupStatus(oldest, retention, horizon),
    )


def _by_type(statistics: Statistics) -> dict[str, TypeStatus]:
    seconds = statistics.seconds_by_type
    return {
        name: TypeStatus(count, timedelta(seconds=seconds[name]) if name in seconds else None)
        for name, count in statistics.completed_by_type.items()
    }


async def _state(broker: Transport, queue: str) -> QueueState:
    depth = await broker.depth(queue)
    if depth is None:
        return QueueState(queue, None, None)
    return QueueState(queue, depth.messages, depth.consumers)


async def status(consumer: Consumer, settings: ConsumerSettings) -> Status:
    """
    The status of *consumer*.

    Raises SchemaMismatch, DatabaseUnavailable and BrokerUnavailable.
    """
    async with database(consumer, settings) as engine:
        await migrate.verify(engine)
        await privileges.verify(engine, checks.rights_of_status(consumer))
        return await read_status(
            consumer.name,
            engine,
            broker(consumer, settings),
            queues=queues(consumer, settings),
            retention=settings.retention,
            horizon=checks.horizon(consumer, settings),
        )
