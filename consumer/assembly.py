"""
The composition root of a consumer: the only place that names concrete adapters.
"""

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from consumer.attempt import Attempts
from consumer.consumer import Consumer
from consumer.dedup import Dedup
from consumer.janitor import Janitor
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from consumer.workers import Workers
from outbox.backoff import Exponential
from outbox.event import allow_headers
from outbox.runtime import migrate, probes, process
from outbox.topology import ConsumerQueues, Topology
from outbox.transports.base import Transport
from outbox.transports.connect import transport

USUAL_METRICS_PORT = 8002


def role(consumer: Consumer) -> str:
    """What the process calls itself."""
    return f"consumer {consumer.name}"


def queues(consumer: Consumer, settings: ConsumerSettings) -> ConsumerQueues:
    """The queues of *consumer*."""
    return ConsumerQueues(
        name=consumer.queue or f"{settings.processing_queue}.{consumer.name}",
        bindings=consumer.bindings,
        delays=settings.delays,
        message_ttl=settings.message_ttl,
        delivery_limit=settings.delivery_limit,
    )


def declared(consumer: Consumer, settings: ConsumerSettings) -> Topology:
    """Everything that *consumer* needs in the broker."""
    return queues(consumer, settings).topology(
        main_exchange=settings.main_exchange, dlx_exchange=settings.dlx_exchange
    )


def broker(consumer: Consumer, settings: ConsumerSettings) -> Transport:
    """The configured broker."""
    return transport(settings, name=process.name(role(consumer)))


def database(
    consumer: Consumer, settings: ConsumerSettings
) -> AbstractAsyncContextManager[AsyncEngine]:
    """The database of the consumer's effects."""
    return process.database(settings, role=role(consumer))


async def serve(consumer: Consumer, settings: ConsumerSettings, stop: asyncio.Event) -> None:
    """
    Run *consumer* until *stop* is set.

    Raises ConfigurationError and Unavailable only at start; later it waits for what is away.
    """
    allow_headers(*settings.allowed_headers)
    registry = CollectorRegistry()
    health = probes.Health("broker")
    mine = queues(consumer, settings)
    telemetry = Telemetry(registry, queue=mine.name, known=consumer.handlers)
    dedup = Dedup(consumer.name)
    async with (
        probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT),
        database(consumer, settings) as engine,
    ):
        await migrate.verify(engine)
        await prepare(consumer, settings)
        workers = Workers(
            transport=broker(consumer, settings),
            queues=mine,
            attempts=Attempts(
                consumer=consumer,
                queue=mine.name,
                sessions=async_sessionmaker(engine, expire_on_commit=False),
                dedup=dedup,
                policy=settings.retry_policy,
                telemetry=telemetry,
            ),
            concurrency=1 if engine.dialect.name == "sqlite" else settings.concurrency,
            prefetch=settings.prefetch,
            reconnect=Exponential(
                first=timedelta(milliseconds=200),
                cap=timedelta(seconds=settings.reconnect_max_seconds),
            ),
            telemetry=telemetry,
            health=health,
            chance=random.random,
        )
        janitor = Janitor(
            engine=engine, dedup=dedup, retention=settings.retention, telemetry=telemetry
        )
        telemetry.started(consumer=consumer.name, queue=mine.name, database=engine.dialect.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(janitor.run(stop))
            await workers.run(stop)


async def prepare(consumer: Consumer, settings: ConsumerSettings) -> None:
    """Declare the consumer's topology, or only check that it exists."""
    await process.prepare(broker(consumer, settings), declared(consumer, settings), settings)
