"""
A consumer while it runs: its queues, its tasks and its resources, until it has to stop.
"""

import asyncio

from prometheus_client import CollectorRegistry

from consumer import assembly, checks
from consumer.bound import bind
from consumer.consumer import Consumer
from consumer.encryption import decryption
from consumer.lifespan import entered
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from outbox import producer_compression
from outbox.checks import durability
from outbox.runtime import log_context, probes, process
from outbox.runtime.register import registered
from outbox.runtime.topology_report import check_policies
from outbox.transports.base import ConnectionCounter
from outbox.transports.connect import management

USUAL_METRICS_PORT = 8002


async def serve(consumer: Consumer, settings: ConsumerSettings, stop: asyncio.Event) -> None:
    """
    Run *consumer* until *stop* is set.

    Raises ConfigurationError and Unavailable at start only; later it waits for servers and keys.
    """
    checks.check_all(consumer, settings)
    process.allow_configured_headers(settings)
    producer_compression.use_setting(settings.compression)
    registry, health = CollectorRegistry(), probes.Health("broker")
    queue, *others = assembly.queues(consumer, settings).names
    log_context.bind(consumer=consumer.name, queue=queue)
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
    async with served, assembly.database(consumer, settings) as engine:
        found = await assembly.expectation(consumer, settings).verify(engine, register=True)
        await prepare(consumer, settings, connections=telemetry.availability.connections)
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
