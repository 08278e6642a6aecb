"""
The relay while it runs: its loop, and the tasks beside it, until it has to stop.
"""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from outbox.checks import durability
from outbox.dead_letters.maintenance import DeadLetterMaintenance
from outbox.runtime import probes, process
from outbox.runtime.register import registered
from outbox.runtime.schema_monitor import SchemaMonitor
from outbox.transports.base import Publisher
from relay import assembly
from relay.maintenance import Maintenance
from relay.ordering_key_hash import OrderingKeyHasher
from relay.required_queues import GatedPublisher
from relay.settings import RelaySettings
from relay.storage.gated import GatedStore
from relay.storage.settlement import SOURCE
from relay.telemetry import Telemetry
from relay.wakeup import WakeSignal

USUAL_METRICS_PORT = 8001


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
    process.allow_configured_headers(settings)
    registry = CollectorRegistry()
    health = probes.Health("broker", "database")
    events = telemetry(
        registry, exchange=settings.main_exchange, record_types=settings.record_types
    )
    wake_signal = WakeSignal()
    async with (
        probes.serve(health, registry, settings, usual_port=USUAL_METRICS_PORT),
        assembly.database(settings) as engine,
    ):
        found, ordering_key_secret = await assembly.verified(engine, settings)
        key_hasher = OrderingKeyHasher(ordering_key_secret)
        broker_transport = assembly.broker(settings, connections=events.availability.connections)
        await process.prepare(broker_transport, assembly.declared(settings), settings)
        await durability.warn(broker_transport, settings)
        monitor = SchemaMonitor(
            assembly.expectation(settings), found, engine, health, events.availability
        )
        outbox_store = GatedStore(
            assembly.store(engine, settings, on_standby=events.standby), monitor.gate
        )
        needed = assembly.required_queues(settings, broker_transport)
        listed = registered(engine, "relay", SOURCE, health=health, telemetry=events)
        async with listed, broker_transport.publisher() as own, asyncio.TaskGroup() as group:
            publisher: Publisher = own
            background = [group.create_task(monitor.run(stop))]
            if needed is not None:
                gated = GatedPublisher(own, needed, events)
                background.append(group.create_task(gated.run(stop)))
                publisher = gated
            maintenance = Maintenance(
                store=outbox_store, wake_signal=wake_signal, telemetry=events
            )
            background.append(group.create_task(maintenance.run(stop)))
            dead_letters_kept = DeadLetterMaintenance(
                engine,
                SOURCE,
                retention=settings.dead_letter_retention,
                body_retention=settings.dead_letter_body_retention,
                actor=process.name(assembly.ROLE),
                report=events.dead_letters,
                availability=events.availability,
            )
            background.append(group.create_task(dead_letters_kept.run(stop)))

            def inserted() -> None:
                wake_signal.notify()
                maintenance.inserted()

            relay = assembly.assemble(
                settings,
                outbox_store,
                publisher,
                key_hasher,
                wakeup=assembly.wakeup(engine, settings, notify=inserted),
                wake_signal=wake_signal,
                telemetry=events,
                health=health,
            )
            events.started(batch_size=settings.batch_size, database=engine.dialect.name)
            await relay.run(stop)
            # They may stop at any point: the next relay does the rest.
            for task in background:
                task.cancel()
