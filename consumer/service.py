"""
A consumer while it runs: its queues, its tasks and its resources, until it has to stop.
"""

import asyncio

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import assembly, checks
from consumer.bound import bind
from consumer.consumer import Consumer
from consumer.encryption import decryption
from consumer.lifespan import entered
from consumer.settings import ConsumerSettings
from consumer.storage.generations import Generations
from consumer.supervised import Report, Supervision, followed
from consumer.telemetry import Telemetry
from outbox import producer_compression
from outbox.checks import durability
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError
from outbox.runtime import log_context, probes, process
from outbox.runtime.register import registered
from outbox.runtime.topology_report import check_policies
from outbox.transports.base import ConnectionCounter
from outbox.transports.connect import management

USUAL_METRICS_PORT = 8002


async def serve(
    consumer: Consumer,
    settings: ConsumerSettings,
    stop: asyncio.Event,
    *,
    supervision: Supervision | None = None,
    names_process: bool = True,
) -> None:
    """
    Run *consumer* until *stop* is set, or until its *supervision* ends.

    Its name is a field of each log line, unless *names_process* is false: an application that runs
    it beside other work has lines of its own.

    Raises ConfigurationError and Unavailable at start only; later it waits for servers and keys.
    """
    checks.check_all(consumer, settings)
    process.allow_configured_headers(settings)
    producer_compression.use_setting(settings.compression)
    registry, health = CollectorRegistry(), probes.Health("broker")
    queue, *others = assembly.queues(consumer, settings).names
    if names_process:
        log_context.bind(consumer=consumer.name, queue=queue)
    consumer.register_metrics(registry)
    telemetry = Telemetry(
        registry,
        source=consumer.name,
        queue=queue,
        known=consumer.handlers,
        health=health,
        record_types=settings.record_types,
    )
    telemetry.figures.facts["queues"] = [queue, *others]
    served = probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT)
    async with (
        served as port,
        followed(supervision, stop, lambda: Report.of(health, telemetry.figures, port)),
        assembly.database(consumer, settings) as engine,
    ):
        found = await assembly.expectation(consumer, settings).verify(engine, register=True)
        await refuse_unread_partitions(consumer, settings, engine)
        await prepare(consumer, settings, connections=telemetry.availability.connections)
        await share_partitions(consumer, settings, engine, telemetry)
        opened = decryption(settings, name=process.name(assembly.role(consumer)))
        async with opened as reads, entered(consumer.lifespan) as value:
            tasks = assembly.assemble(
                consumer,
                settings,
                engine,
                found=found,
                telemetry=telemetry,
                health=health,
                bound=bind(consumer, value),
                decryption=reads,
            )
            if supervision is not None:
                supervision.started()
            telemetry.started(consumer=consumer.name, queue=queue, database=engine.dialect.name)
            entry = registered(
                engine, "consumer", consumer.name, health=health, telemetry=telemetry
            )
            async with entry:
                await tasks.run(stop)


async def prepare(
    consumer: Consumer, settings: ConsumerSettings, *, connections: ConnectionCounter | None = None
) -> None:
    """
    Declare the topology of *consumer*, or only check that it exists; check the policies.

    Raises TopologyMismatch, ConfigurationError and BrokerUnavailable.
    """
    topology = assembly.declared(consumer, settings)
    broker = assembly.broker(consumer, settings, connections=connections)
    await process.prepare(broker, topology, settings)
    await durability.warn(broker, settings)
    await check_policies(management(settings), topology)


async def refuse_unread_partitions(
    consumer: Consumer, settings: ConsumerSettings, engine: AsyncEngine
) -> None:
    """
    Raise ConfigurationError if *consumer* has partitions that it would not read.

    Earlier code declared them, and the messages in them would wait for ever. Raises
    DatabaseUnavailable.
    """
    is_asked = consumer.ordered and consumer.partitions is None
    if not is_asked or settings.brokers[0].scheme not in checks.WITH_PARTITIONS:
        return
    with driver_errors_translated():
        async with engine.connect() as connection:
            generations = await Generations(consumer.name).all(connection)
    if generations and generations[-1].number > 0:
        found = generations[-1].partitions
        raise ConfigurationError(
            f"consumer {consumer.name}: its messages are in partitions, which it would not read:"
            f" declare it with partitions={found}"
        )


async def share_partitions(
    consumer: Consumer, settings: ConsumerSettings, engine: AsyncEngine, telemetry: Telemetry
) -> None:
    """
    Declare the partitions of *consumer*, or only check that they are; nothing if it has none.

    Raises TopologyMismatch, ConfigurationError, DatabaseUnavailable and BrokerUnavailable.
    """
    if not assembly.queues(consumer, settings).is_partitioned:
        return
    scaling, declared = assembly.scaling(consumer, settings, engine), consumer.partitions or 1
    found = await (scaling.begin(declared) if settings.declare_topology else scaling.verify())
    telemetry.partitions.scaled(declared=declared, found=found)
