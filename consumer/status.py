"""
The status of a consumer: processed, failing, parked and dead-lettered messages. Read only.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import checks
from consumer.assembly import broker, database, queues
from consumer.consumer import Consumer
from consumer.partitions.balance import is_open
from consumer.queues import ConsumerQueues
from consumer.settings import ConsumerSettings
from consumer.storage.dedup_statistics import Statistics, oldest_row, statistics
from consumer.storage.failing_reads import FailingGroup, groups
from consumer.storage.generations import State
from consumer.storage.parked import ParkedMessages
from consumer.storage.partitions import Partitions, Shared
from outbox.database import migrate, privileges, row_access
from outbox.dead_letters.source import reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.transports.base import Transport
from outbox.transports.connect import management
from outbox.transports.management import Management
from outbox.transports.topology import Queue, Topology

USUAL_DELAYS = [timedelta(seconds=seconds) for seconds in (30, 300, 900)]
"""The default of MQ_RETRY_DELAYS: retry queues that may exist though others are configured."""


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
    """
    A queue; *messages* and *consumers* are None if it does not exist.

    *held* is the number of messages that it holds because no other queue takes them; None if the
    management API is not configured.
    """

    queue: str
    messages: int | None
    consumers: int | None
    held: int | None


@dataclass(frozen=True, slots=True)
class ParkedStatus:
    """The number of parked messages, and the age of the oldest."""

    messages: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True)
class PartitionState:
    """
    A partition of an ordered consumer.

    Args:
        state: `read`, `draining` or `drained`; `waits` for the drain of an older generation.
        messages: None if its queue does not exist.
        owner: The process that reads it, as the first 8 digits of its id in `consumer_members`.

    """

    generation: int
    number: int
    state: str
    messages: int | None
    owner: str | None


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
        failing: Messages that wait for their next attempt, by type, error and place.
        parked: None for a consumer that is not ordered and has no parked messages.
        partitions: Empty for a consumer without.

    """

    consumer: str
    processed: int
    by_status: dict[str, int]
    last_24_hours: dict[str, TypeStatus]
    queues: list[QueueState]
    dead_letters: list[ReasonCount]
    failing: list[FailingGroup]
    parked: ParkedStatus | None
    dedup: DedupStatus
    partitions: list[PartitionState]


async def read_status(
    name: str,
    engine: AsyncEngine,
    broker: Transport,
    *,
    asked: Management | None = None,
    queues: ConsumerQueues,
    retention: timedelta,
    horizon: timedelta,
) -> Status:
    """
    The status of the consumer *name*, which has *queues*; *asked* is the management API.

    Raises DatabaseUnavailable and BrokerUnavailable.
    """
    async with reading(engine) as connection:
        found = await statistics(connection, name)
        oldest = await oldest_row(connection, name)
        reason_counts = await DeadLetters(name).reason_counts(connection)
        failing = await groups(connection, name)
        parked = ParkedStatus(*await ParkedMessages(name).waiting(connection))
        shared = None
        if queues.is_partitioned:
            shared = await Partitions(name, engine).shared(connection)
    return Status(
        consumer=name,
        processed=sum(found.by_status.values()),
        by_status=found.by_status,
        last_24_hours=_by_type(found),
        queues=await _states(broker, asked, queues),
        dead_letters=reason_counts,
        failing=failing,
        parked=parked if parked.messages or queues.single_active else None,
        dedup=DedupStatus(oldest, retention, horizon),
        partitions=[] if shared is None else await _partitions(broker, queues, shared),
    )


async def _partitions(
    broker: Transport, queues: ConsumerQueues, shared: Shared
) -> list[PartitionState]:
    states = {each.number: each.state for each in shared.generations}
    found = []
    for each in shared.partitions:
        depth = await broker.depth(queues.partition(each.generation, each.number))
        if each.is_drained:
            state = "drained"
        elif not is_open(shared, each.generation):
            state = "waits"
        else:
            state = "draining" if states[each.generation] is State.DRAINING else "read"
        owner = str(each.owner)[:8] if each.owner in shared.members else None
        messages = None if depth is None else depth.messages
        found.append(PartitionState(each.generation, each.number, state, messages, owner))
    return found


def _by_type(statistics: Statistics) -> dict[str, TypeStatus]:
    seconds = statistics.seconds_by_type
    return {
        name: TypeStatus(count, timedelta(seconds=seconds[name]) if name in seconds else None)
        for name, count in statistics.completed_by_type.items()
    }


async def _states(
    broker: Transport, asked: Management | None, queues: ConsumerQueues
) -> list[QueueState]:
    """The state of each queue, and of the retry queues of delays no longer configured."""
    usual = [queues.retry(delay) for delay in USUAL_DELAYS]
    former = usual if asked is None else await asked.queues(queues.retry_prefix)
    names = queues.names
    held: dict[str, int] | None = None
    if asked is not None:
        topology = Topology(queues=[Queue(name) for name in {*names, *former}])
        held = await asked.held(topology)
    states = [await _state(broker, name, held) for name in names]
    others = [await _state(broker, name, held) for name in former if name not in names]
    return [*states, *(state for state in others if state.messages is not None)]


async def _state(broker: Transport, queue: str, held: dict[str, int] | None) -> QueueState:
    depth = await broker.depth(queue)
    number = None if held is None else held.get(queue, 0)
    if depth is None:
        return QueueState(queue, None, None, number)
    return QueueState(queue, depth.messages, depth.consumers, number)


async def status(consumer: Consumer, settings: ConsumerSettings) -> Status:
    """
    The status of *consumer*.

    Raises SchemaMismatch, DatabaseUnavailable and BrokerUnavailable.
    """
    async with database(consumer, settings) as engine:
        await migrate.verify(engine)
        rights = checks.rights_of_status(consumer)
        await privileges.verify(engine, rights)
        await row_access.verify(engine, rights)
        return await read_status(
            consumer.name,
            engine,
            broker(consumer, settings),
            asked=management(settings),
            queues=queues(consumer, settings),
            retention=settings.retention,
            horizon=checks.horizon(consumer, settings),
        )
