"""
What a consumer has done, and what waits for it: looked at, not changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.dedup import Dedup, Statistics
from consumer.storage.parked import Parking
from outbox.cli import console as commands
from outbox.cli import dead_letter_view as display
from outbox.dead_letters.source import reading
from outbox.dead_letters.store import DeadLetters, Pile
from outbox.transports.base import Transport
from outbox.transports.topology import ConsumerQueues


@dataclass(frozen=True, slots=True)
class OfType:
    """
    The messages of one type that were completed in the last 24 hours.

    *mean_duration* is that of their handlers, as far as it is known.
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
class Parked:
    """Messages of an ordered consumer that wait in the database."""

    messages: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """How far the dedup store goes back, and how far it has to."""

    oldest: timedelta | None
    retention: timedelta
    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Status:
    """
    Everything that `consumer status` tells.

    Args:
        processed: Messages in the dedup store.
        parked: None for a consumer that is not ordered and has none.

    """

    consumer: str
    processed: int
    by_status: dict[str, int]
    last_24_hours: dict[str, OfType]
    queues: list[QueueState]
    dead_letters: list[Pile]
    parked: Parked | None
    dedup: Remembered


async def look(
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
    dedup = Dedup(name)
    async with reading(engine) as connection:
        statistics = await dedup.statistics(connection)
        oldest = await dedup.oldest(connection)
        piles = await DeadLetters(name).piles(connection)
        parked = Parked(*await Parking(name).waiting(connection))
    return Status(
        consumer=name,
        processed=sum(statistics.by_status.values()),
        by_status=statistics.by_status,
        last_24_hours=_by_type(statistics),
        queues=[
            await _state(broker, queue)
            for queue in (queues.name, *queues.retry_queues.values(), queues.dead)
        ],
        dead_letters=piles,
        parked=parked if parked.messages or queues.single_active else None,
        dedup=Remembered(oldest, retention, horizon),
    )


def show(console: Console, status: Status) -> None:
    """Print *status* for people."""
    commands.show("processed", {"in all": status.processed, **status.by_status})
    commands.show_lines(
        "completed in the last 24 hours",
        ("type", "messages", "mean seconds"),
        [
            (name, each.completed, _seconds(each.mean_duration))
            for name, each in status.last_24_hours.items()
        ],
    )
    commands.show_lines("queues", ("queue", "messages", "consumers"), _lines(status.queues))
    display.piles(console, status.dead_letters)
    if status.parked is not None:
        commands.show(
            "parked", {"messages": status.parked.messages, "oldest": status.parked.oldest}
        )
    commands.show(
        "dedup store",
        {
            "oldest row": status.dedup.oldest,
            "kept for": status.dedup.retention,
            "horizon": status.dedup.horizon,
        },
    )


def _by_type(statistics: Statistics) -> dict[str, OfType]:
    seconds = statistics.seconds_by_type
    return {
        name: OfType(count, timedelta(seconds=seconds[name]) if name in seconds else None)
        for name, count in statistics.completed_by_type.items()
    }


async def _state(broker: Transport, queue: str) -> QueueState:
    depth = await broker.depth(queue)
    if depth is None:
        return QueueState(queue, None, None)
    return QueueState(queue, depth.messages, depth.consumers)


def _lines(queues: Iterable[QueueState]) -> list[tuple[object, ...]]:
    return [
        (each.queue, "missing" if each.messages is None else each.messages, each.consumers)
        for each in queues
    ]


def _seconds(duration: timedelta | None) -> str:
    return "-" if duration is None else f"{duration.total_seconds():.3f}"
