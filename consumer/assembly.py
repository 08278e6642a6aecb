"""
The composition root of a consumer: the only place that names concrete adapters.
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from consumer import checks
from consumer.batch_sizes import BatchSizes
from consumer.bound import Bound, bind
from consumer.consumer import Consumer
from consumer.database_retry import FIRST_PAUSE, DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.dispatcher import Dispatcher
from consumer.dispatch.failure_recorder import FailureRecorder
from consumer.dispatch.parked_strikes import ParkedStrikes
from consumer.dispatch.parked_worker import LANES_AT_ONCE, ParkedWorker
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.strikes import Strikes
from consumer.dispatch.turns import InTurn, Turns
from consumer.dispatch.worker import Worker
from consumer.execution.decrypting_executor import decrypting
from consumer.execution.executor import Executor
from consumer.execution.leased import Leased
from consumer.execution.ordering import Lanes
from consumer.execution.parked_context import ParkedContext
from consumer.execution.traced_executor import traced, traced_calls
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.maintenance.dead_letter_queue import DeadLetterQueueWorker, RequeuePolicy
from consumer.maintenance.failing_sampler import FailingSampler
from consumer.maintenance.retention import retention
from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.partitions.dead_lettering import DeadLettering
from consumer.partitions.repair import PartitionRepair
from consumer.partitions.scaling import Scaling
from consumer.partitions.source import partition_source
from consumer.settings import ConsumerSettings
from consumer.storage.begun import BegunDeliveries
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.dedup import Dedup
from consumer.storage.durations import DurationWriter
from consumer.storage.leases import Leases
from consumer.storage.parked import ParkedMessages
from consumer.storage.partitions import Partitions
from consumer.tasks import Tasks
from consumer.telemetry import Telemetry
from consumer.tracing import tracing_of
from outbox.backoff import Exponential
from outbox.database.location import ANYWHERE, Location
from outbox.database.verification import Expectation
from outbox.dead_letters.maintenance import DeadLetterMaintenance
from outbox.runtime import probes, process
from outbox.runtime.schema_monitor import SchemaMonitor
from outbox.transports.base import ConnectionCounter, Transport
from outbox.transports.connect import management, transport

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption

queues, declared = checks.queues, checks.declared


def role(consumer: Consumer) -> str:
    """The name of the process, in logs and on its connections."""
    return f"consumer {consumer.name}"


def broker(
    consumer: Consumer, settings: ConsumerSettings, *, connections: ConnectionCounter | None = None
) -> Transport:
    """The configured broker; *connections* counts the open connections to it."""
    return transport(settings, name=process.name(role(consumer)), connections=connections)


def database(
    consumer: Consumer, settings: ConsumerSettings
) -> AbstractAsyncContextManager[AsyncEngine]:
    """The database to which the handlers of *consumer* write."""
    return process.database(settings, role=role(consumer), lock_timeout=settings.lock_timeout)


def expectation(consumer: Consumer, settings: ConsumerSettings) -> Expectation:
    return checks.expectation(
        consumer,
        queues(consumer, settings).name,
        dead_letter_retention=settings.dead_letter_retention,
        dead_letter_body_retention=settings.dead_letter_body_retention,
    )


def scaling(consumer: Consumer, settings: ConsumerSettings, engine: AsyncEngine) -> Scaling:
    """The steps between numbers of partitions of *consumer*."""
    partitions = checks.partition_queues(consumer, settings)
    dead_lettering = DeadLettering(partitions.base, management(settings))
    transport_of_steps = broker(consumer, settings)
    return Scaling(consumer.name, engine, transport_of_steps, partitions, dead_lettering)


def assemble(
    consumer: Consumer,
    settings: ConsumerSettings,
    engine: AsyncEngine,
    *,
    telemetry: Telemetry,
    health: probes.Health,
    found: Location = ANYWHERE,
    bound: Bound | None = None,
    decryption: "Decryption | None" = None,
    jitter: Callable[[], float] = random.random,
) -> Tasks:
    """
    Build all parts of *consumer*, whose tables were *found*; returns those with a loop.

    *bound* are its functions with their resources. *decryption* reads encrypted messages. *jitter*
    returns a number in [0, 1).
    """
    bound = bound or bind(consumer)
    consumer_queues = queues(consumer, settings)
    broker_transport = broker(consumer, settings, connections=telemetry.availability.connections)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    dedup = Dedup(consumer.name)
    parked = ParkedMessages(consumer.name, bodies_kept=settings.parked_body_retention)
    expected = expectation(consumer, settings)
    schema_monitor = SchemaMonitor(expected, found, engine, health, telemetry.availability)
    units = UnitOfWorkFactory(engine, schema_monitor.gate)
    concurrency = 1 if engine.dialect.name == "sqlite" else settings.concurrency
    answered = frozenset(name for name, each in bound.handlers.items() if each.answers)
    dead_letter_writer = DeadLetterWriter(
        consumer.name, consumer_queues.name, sessions, dedup, answered
    )
    lanes = Lanes(sessions, parked, dedup.failing) if consumer.ordered else None
    reconnect = Exponential(FIRST_PAUSE, cap=timedelta(seconds=settings.reconnect_max_seconds))
    database_retry = DatabaseRetry(
        reconnect=reconnect, telemetry=telemetry, health=health, jitter=jitter
    )
    executor = Executor(
        units=units,
        sessions=sessions,
        dedup=dedup,
        leased=Leased(units, Leases(consumer.name)),
        lanes=lanes,
        policy=settings.retry_policy,
        retention=settings.retention,
        unsupported_wait=settings.unsupported_wait,
        telemetry=telemetry,
        jitter=jitter,
        batch_sizes=BatchSizes(bound.handlers),
    )
    tracing = tracing_of(consumer.name, consumer_queues.name, settings, telemetry)
    decrypting_executor = decrypting(executor, decryption)
    attempts = traced(decrypting_executor, tracing)
    begun, turns = BegunDeliveries(consumer.name, sessions), Turns() if lanes else None
    settlement = Settlement(
        queues=consumer_queues,
        dead_letter_writer=dead_letter_writer,
        recorder=FailureRecorder(engine, dedup.failing, database_retry, telemetry),
        lanes=lanes,
        database_retry=database_retry,
        telemetry=telemetry,
    )
    dispatcher = Dispatcher(
        delivery_queue=DeliveryQueue(
            bound.handlers,
            lane_of=lanes.lane_of if lanes else None,
            limit=settings.delivery_limit,
            sizes=executor.batch_sizes,
        ),
        executor=InTurn(attempts, turns) if turns else attempts,
        strikes=Strikes(begun, attempts, database_retry, turns),
        settlement=settlement,
        database_retry=database_retry,
        concurrency=concurrency,
        prefetch=checks.prefetch(consumer, settings),
        # A queue with one active consumer leaves idle the subscription that raises a prefetch.
        starts_slowly=settings.is_counted_by_broker and not consumer.ordered,
    )
    partitions, repair = None, None
    if consumer_queues.is_partitioned:
        partitions = partition_source(
            Partitions(consumer.name, engine),
            broker_transport,
            checks.partition_queues(consumer, settings),
            database_retry=database_retry,
            telemetry=telemetry,
        )
        steps = scaling(consumer, settings, engine)
        repair = PartitionRepair(steps, declared=consumer.partitions or 1, telemetry=telemetry)
    parked_worker = None
    if lanes is not None and turns is not None:
        context = ParkedContext(
            handlers=traced_calls(bound.handlers, tracing),
            queue=consumer_queues.name,
            executor=executor,
            parked=parked,
            begun=begun,
            dead_letter_writer=dead_letter_writer,
            decryption=decryption,
        )
        parked_worker = ParkedWorker(
            strikes=ParkedStrikes(context, settings.delivery_limit),
            turns=turns,
            lanes_at_once=min(concurrency, LANES_AT_ONCE),
            database_retry=database_retry,
            expiring=settings.parked_body_retention is not None,
        )
    return Tasks(
        executor=attempts,
        settlement=settlement,
        worker=Worker(
            source=partitions or broker_transport,
            queue=consumer_queues.name,
            dispatcher=dispatcher,
            executor=decrypting_executor,
            database_retry=database_retry,
            ordered=consumer.ordered,
            telemetry=telemetry,
            health=health,
            was_renewed=lambda: partitions is not None and partitions.was_renewed,
        ),
        dead_letter_worker=DeadLetterQueueWorker(
            transport=broker_transport,
            queues=consumer_queues,
            policy=RequeuePolicy(settings.requeue_reasons, settings.max_requeues),
            dead_letter_writer=dead_letter_writer,
            database_retry=database_retry,
            telemetry=telemetry,
        ),
        topology_monitor=TopologyMonitor(
            transport=broker_transport,
            queues=consumer_queues,
            topology=declared(consumer, settings),
            report=telemetry.topology_report(health),
            management=management(settings),
            declares=settings.declare_topology,
        ),
        schema_monitor=schema_monitor,
        parked_worker=parked_worker,
        assignments=partitions.assignments if partitions else None,
        partition_repair=repair if settings.declare_topology else None,
        retention=retention(
            consumer, settings, engine, older_than=settings.retention, on_purged=telemetry.purged
        ),
        dead_letter_maintenance=DeadLetterMaintenance(
            engine,
            consumer.name,
            retention=settings.dead_letter_retention,
            body_retention=settings.dead_letter_body_retention,
            actor=process.name(role(consumer)),
            report=telemetry.dead_letters,
            availability=telemetry.availability,
        ),
        failing_sampler=FailingSampler(engine, consumer.name, telemetry),
        durations=DurationWriter(engine, consumer.name, executor.take_durations),
        hooks=telemetry.call_hooks(bound.on_failure, bound.on_dead_letter),
    )
