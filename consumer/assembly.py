"""
The composition root of a consumer: the only place that names concrete adapters.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from consumer import checks
from consumer.consumer import Consumer
from consumer.database_retry import DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.parked_worker import ParkedWorker
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.worker import Worker
from consumer.execution.executor import Executor
from consumer.execution.leased import Leased
from consumer.execution.ordering import Lanes
from consumer.execution.parked import ParkedContext
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.maintenance.dead_letter_queue import DeadLetterQueueWorker, RequeuePolicy
from consumer.maintenance.retention import Retention
from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.queues import ConsumerQueues
from consumer.settings import ConsumerSettings
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.dedup import Dedup
from consumer.storage.durations import DurationWriter
from consumer.storage.leases import Leases
from consumer.storage.parked import ParkedMessages
from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.database import migrate, privileges
from outbox.runtime import probes, process
from outbox.transports.base import ConnectionCounter, Transport
from outbox.transports.connect import transport
from outbox.transports.topology import Topology
from outbox.validation import allow_headers

USUAL_METRICS_PORT = 8002
LANES_AT_ONCE = 2
FIRST_PAUSE = timedelta(milliseconds=200)


def role(consumer: Consumer) -> str:
    """The name of the process, in logs and on its connections."""
    return f"consumer {consumer.name}"


def queues(consumer: Consumer, settings: ConsumerSettings) -> ConsumerQueues:
    """The names and arguments of all queues of *consumer*."""
    delays = {delay for each in checks.policies(consumer, settings) for delay in each.delays}
    return ConsumerQueues(
        name=consumer.queue or f"{settings.processing_queue}.{consumer.name}",
        bindings=consumer.bindings,
        delays=sorted(delays),
        message_ttl=settings.message_ttl,
        delivery_limit=settings.delivery_limit,
        single_active=consumer.ordered,
    )


def declared(consumer: Consumer, settings: ConsumerSettings) -> Topology:
    """The exchanges, queues and bindings that *consumer* needs in the broker."""
    return queues(consumer, settings).topology(
        main_exchange=settings.main_exchange, dlx_exchange=settings.dlx_exchange
    )


def broker(
    consumer: Consumer,
    settings: ConsumerSettings,
    *,
    connections: ConnectionCounter | None = None,
) -> Transport:
    """The configured broker; *connections* counts the open connections to it."""
    return transport(settings, name=process.name(role(consumer)), connections=connections)


def database(
    consumer: Consumer, settings: ConsumerSettings
) -> AbstractAsyncContextManager[AsyncEngine]:
    """The database to which the handlers of *consumer* write."""
    return process.database(settings, role=role(consumer), lock_timeout=settings.lock_timeout)


async def verified(consumer: Consumer, engine: AsyncEngine) -> None:
    """
    Check the version of the schema, and the rights of *consumer* to its tables.

    Raises SchemaMismatch and DatabaseUnavailable.
    """
    await migrate.verify(engine)
    await privileges.verify(engine, checks.rights_of_process(consumer))


async def serve(consumer: Consumer, settings: ConsumerSettings, stop: asyncio.Event) -> None:
    """
    Run *consumer* until *stop* is set.

    Raises ConfigurationError and Unavailable at start only. Later, the process waits for an
    unavailable database or broker.
    """
    checks.check(consumer, settings)
    allow_headers(*settings.allowed_headers)
    registry = CollectorRegistry()
    health = probes.Health("broker")
    queue = queues(consumer, settings).name
    telemetry = Telemetry(registry, source=consumer.name, queue=queue, known=consumer.handlers)
    async with (
        probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT),
        database(consumer, settings) as engine,
    ):
        await verified(consumer, engine)
        await prepare(consumer, settings, connections=telemetry.availability.connections)
        tasks = assemble(consumer, settings, engine, telemetry=telemetry, health=health)
        telemetry.started(consumer=consumer.name, queue=queue, database=engine.dialect.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(tasks.retention.run(stop))
            group.create_task(tasks.dead_letter_worker.run(stop))
            monitoring = group.create_task(tasks.topology_monitor.run(stop))
            if tasks.parked_worker is not None:
                group.create_task(tasks.parked_worker.run(stop))
            group.create_task(tasks.durations.run(stop))
            await tasks.worker.run(stop)
            # It may wait for a broker that does not answer, and no delivery needs it any more.
            monitoring.cancel()
        await tasks.durations.write()


@dataclass(frozen=True, slots=True)
class Tasks:
    """The parts of a consumer's process that have a loop."""

    worker: Worker
    dead_letter_worker: DeadLetterQueueWorker
    topology_monitor: TopologyMonitor
    parked_worker: ParkedWorker | None
    retention: Retention
    durations: DurationWriter


def assemble(
    consumer: Consumer,
    settings: ConsumerSettings,
    engine: AsyncEngine,
    *,
    telemetry: Telemetry,
    health: probes.Health,
) -> Tasks:
    """Build all parts of *consumer*, and return those with a loop."""
    consumer_queues = queues(consumer, settings)
    broker_transport = broker(consumer, settings, connections=telemetry.availability.connections)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    dedup = Dedup(consumer.name)
    units = UnitOfWorkFactory(engine)
    concurrency = 1 if engine.dialect.name == "sqlite" else settings.concurrency
    dead_letter_writer = DeadLetterWriter(consumer.name, consumer_queues.name, sessions, dedup)
    lanes = Lanes(sessions, ParkedMessages(consumer.name)) if consumer.ordered else None
    longest_pause = timedelta(seconds=settings.reconnect_max_seconds)
    database_retry = DatabaseRetry(
        reconnect=Exponential(first=FIRST_PAUSE, cap=longest_pause),
        telemetry=telemetry,
        health=health,
        jitter=random.random,
    )
    executor = Executor(
        units=units,
        sessions=sessions,
        dedup=dedup,
        leased=Leased(units, Leases(consumer.name)),
        lanes=lanes,
        policy=settings.retry_policy,
        retention=settings.retention,
        telemetry=telemetry,
        jitter=random.random,
    )
    worker = Worker(
        transport=broker_transport,
        queue=consumer_queues.name,
        delivery_queue=DeliveryQueue(consumer.handlers, lane_of=lanes.lane_of if lanes else None),
        executor=executor,
        settlement=Settlement(
            queues=consumer_queues,
            dead_letter_writer=dead_letter_writer,
            lanes=lanes,
            database_retry=database_retry,
            telemetry=telemetry,
        ),
        database_retry=database_retry,
        concurrency=concurrency,
        prefetch=checks.prefetch(consumer, settings),
        ordered=consumer.ordered,
        telemetry=telemetry,
        health=health,
    )
    dead_letter_worker = DeadLetterQueueWorker(
        transport=broker_transport,
        queues=consumer_queues,
        policy=RequeuePolicy(settings.requeue_reasons, settings.max_requeues),
        dead_letter_writer=dead_letter_writer,
        database_retry=database_retry,
        telemetry=telemetry,
    )
    purge = retention(
        consumer, settings, engine, older_than=settings.retention, on_purged=telemetry.purged
    )
    work_queue = consumer_queues.work_queue(settings.dlx_exchange)
    topology_monitor = TopologyMonitor(transport=broker_transport, queue=work_queue)
    parked_worker = None
    if lanes is not None:
        parked_worker = ParkedWorker(
            context=ParkedContext(
                handlers=consumer.handlers,
                queue=consumer_queues.name,
                executor=executor,
                parked=lanes.parked,
                dead_letter_writer=dead_letter_writer,
            ),
            lanes_at_once=min(concurrency, LANES_AT_ONCE),
            database_retry=database_retry,
        )
    durations = DurationWriter(engine, consumer.name, executor.take_durations)
    return Tasks(worker, dead_letter_worker, topology_monitor, parked_worker, purge, durations)


def retention(
    consumer: Consumer,
    settings: ConsumerSettings,
    engine: AsyncEngine,
    *,
    older_than: timedelta,
    on_purged: Callable[[int], None] | None = None,
) -> Retention:
    """
    The purge of dedup rows of *consumer* that are *older_than* this; for *on_purged* see there.

    Raises ConfigurationError if that is below the horizon of its settings.
    """
    checks.check_retention("--older-than", older_than, consumer, settings)
    horizon = checks.horizon(consumer, settings)
    return Retention(
        engine, consumer.name, older_than=older_than, horizon=horizon, on_purged=on_purged
    )


async def prepare(
    consumer: Consumer, settings: ConsumerSettings, *, connections: ConnectionCounter | None = None
) -> None:
    """Declare the topology of *consumer*, or only check that it exists."""
    broker_transport = broker(consumer, settings, connections=connections)
    await process.prepare(broker_transport, declared(consumer, settings), settings)
