"""
The composition root of the relay: the only place that names concrete adapters.
"""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import topology
from outbox.backoff import Exponential
from outbox.event import allow_headers
from outbox.runtime import migrate, probes
from outbox.runtime.engine import create_engine
from outbox.topology import Topology
from outbox.transports.base import Transport
from outbox.transports.connect import transport
from relay.janitor import Janitor
from relay.pace import Pace
from relay.relay import Relay
from relay.settings import RelaySettings
from relay.storage.base import OutboxStore
from relay.storage.postgres import PostgresStore
from relay.storage.sqlite import SqliteStore
from relay.telemetry import Telemetry

USUAL_METRICS_PORT = 8001


def process_name() -> str:
    """What databases and brokers show for this process."""
    return f"relay {socket.gethostname()}:{os.getpid()}"


def declared(settings: RelaySettings) -> Topology:
    """The exchanges that a relay publishes to."""
    return topology.publishing(
        main_exchange=settings.main_exchange, dlx_exchange=settings.dlx_exchange
    )


def broker(settings: RelaySettings) -> Transport:
    """The configured broker."""
    return transport(settings, name=process_name())


@asynccontextmanager
async def database(settings: RelaySettings) -> AsyncIterator[AsyncEngine]:
    """The configured database."""
    engine = create_engine(
        settings.database,
        pool_size=settings.database_pool_size,
        application_name=process_name(),
    )
    try:
        yield engine
    finally:
        await engine.dispose()


def store(engine: AsyncEngine, settings: RelaySettings) -> OutboxStore:
    """The outbox in the database of *engine*."""
    if engine.dialect.name == "sqlite":
        return SqliteStore(engine)
    return PostgresStore(engine, publish_timeout=settings.publish_timeout)


async def serve(settings: RelaySettings, stop: asyncio.Event) -> None:
    """
    Run the relay until *stop* is set.

    Raises ConfigurationError and Unavailable only at start; later it waits for what is away.
    """
    allow_headers(*settings.allowed_headers)
    registry = CollectorRegistry()
    health = probes.Health("servers")
    telemetry = Telemetry(registry, exchange=settings.main_exchange)
    async with (
        probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT),
        database(settings) as engine,
    ):
        await migrate.verify(engine)
        await prepare(broker(settings), declared(settings), declare=settings.declare_topology)
        outbox_store = store(engine, settings)
        async with broker(settings).publisher() as publisher, asyncio.TaskGroup() as group:
            group.create_task(Janitor(store=outbox_store, telemetry=telemetry).run(stop))
            relay = Relay(
                store=outbox_store,
                publisher=publisher,
                exchange=settings.main_exchange,
                limit=settings.batch_size,
                publish_timeout=settings.publish_timeout,
                policy=settings.retry_policy,
                pace=Pace(
                    timedelta(seconds=settings.poll_min_seconds),
                    timedelta(seconds=settings.poll_max_seconds),
                ),
                reconnect=Exponential(
                    first=timedelta(milliseconds=200),
                    cap=timedelta(seconds=settings.reconnect_max_seconds),
                ),
                telemetry=telemetry,
                health=health,
                chance=random.random,
            )
            telemetry.started(batch_size=settings.batch_size, database=engine.dialect.name)
            await relay.run(stop)


async def prepare(to: Transport, wanted: Topology, *, declare: bool) -> None:
    """Declare the *wanted* topology, or only check that it exists."""
    if declare:
        await to.declare(wanted)
    else:
        await to.verify(wanted)
