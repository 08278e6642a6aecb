"""
The composition root of the relay: the only place that names concrete adapters.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.backoff import Exponential
from outbox.database import migrate, privileges
from outbox.runtime import probes, process
from outbox.tables import dead_letters, outbox
from outbox.transports import topology
from outbox.transports.base import ConnectionCounter, Transport
from outbox.transports.connect import transport
from outbox.transports.topology import Topology
from outbox.validation import allow_headers
from relay.maintenance import Maintenance
from relay.ordering_key_hash import OrderingKeyHasher
from relay.poll_interval import PollInterval
from relay.relay import Limits, Relay
from relay.settings import RelaySettings
from relay.storage import ordering_secret as secret
from relay.storage.base import OutboxStore
from relay.storage.postgres import PostgresStore
from relay.storage.postgres_notify import PostgresWakeup
from relay.storage.sqlite import SqliteStore
from relay.telemetry import Telemetry
from relay.wakeup import Polling, WakeSignal, Wakeup

ROLE = "relay"
USUAL_METRICS_PORT = 8001
RIGHTS = {outbox: ["SELECT", "UPDATE", "DELETE"], dead_letters: ["SELECT", "INSERT"]}


def declared(settings: RelaySettings) -> Topology:
    """The exchanges that the relay publishes to."""
    return topology.publishing(
        main_exchange=settings.main_exchange, dlx_exchange=settings.dlx_exchange
    )


def broker(settings: RelaySettings, *, connections: ConnectionCounter | None = None) -> Transport:
    """The configured broker; *connections* counts the open connections to it."""
    return transport(settings, name=process.name(ROLE), connections=connections)


def database(settings: RelaySettings) -> AbstractAsyncContextManager[AsyncEngine]:
    """The configured database."""
    return process.database(settings, role=ROLE)


async def verified(engine: AsyncEngine) -> bytes:
    """
    Check the schema and the rights in the database of *engine*; returns its ordering secret.

    Raises SchemaMismatch and DatabaseUnavailable.
    """
    await migrate.verify(engine)
    await privileges.verify(engine, RIGHTS)
    return await secret.read(engine)


def store(engine: AsyncEngine, settings: RelaySettings) -> OutboxStore:
    """The outbox in the database of *engine*."""
    if engine.dialect.name == "sqlite":
        return SqliteStore(engine)
    return PostgresStore(
        engine, publish_timeout=settings.publish_timeout, pooled=settings.is_pooled
    )


def wakeup(engine: AsyncEngine, settings: RelaySettings, wake_signal: WakeSignal) -> Wakeup:
    """The source of notifications for *wake_signal*, or polling."""
    return PostgresWakeup(engine, notify=wake_signal.notify) if settings.is_woken else Polling()


async def serve(
    settings: RelaySettings,
    stop: asyncio.Event,
    *,
    telemetry: Callable[..., Telemetry] = Telemetry,
) -> None:
    """
    Run the relay until *stop* is set.

    Raises ConfigurationError and Unavailable only at start; later it waits for servers that are
    unavailable.
    """
    allow_headers(*settings.allowed_headers)
    registry = CollectorRegistry()
    health = probes.Health("servers")
    events = telemetry(registry, exchange=settings.main_exchange)
    wake_signal = WakeSignal()
    async with (
        probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT),
        database(settings) as engine,
    ):
        key_hasher = OrderingKeyHasher(await verified(engine))
        broker_transport = broker(settings, connections=events.availability.connections)
        await process.prepare(broker_transport, declared(settings), settings)
        outbox_store = store(engine, settings)
        async with broker_transport.publisher() as publisher, asyncio.TaskGroup() as group:
            maintenance = Maintenance(
                store=outbox_store, wake_signal=wake_signal, telemetry=events
            )
            maintaining = group.create_task(maintenance.run(stop))
            relay = Relay(
                store=outbox_store,
                publisher=publisher,
                wakeup=wakeup(engine, settings, wake_signal),
                wake_signal=wake_signal,
                exchange=settings.main_exchange,
                key_hasher=key_hasher,
                limits=Limits(
                    rows=settings.batch_size,
                    bytes=settings.batch_bytes,
                    publish_timeout=settings.publish_timeout,
                ),
                policy=settings.retry_policy,
                poll_interval=PollInterval(
                    timedelta(seconds=settings.poll_min_seconds),
                    timedelta(seconds=settings.poll_max_seconds),
                ),
                reconnect=Exponential(
                    first=timedelta(milliseconds=200),
                    cap=timedelta(seconds=settings.reconnect_max_seconds),
                ),
                telemetry=events,
                health=health,
                jitter=random.random,
            )
            events.started(batch_size=settings.batch_size, database=engine.dialect.name)
            await relay.run(stop)
            # Maintenance may stop at any point: the next relay does the rest.
            maintaining.cancel()
