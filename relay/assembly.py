"""
The composition root of the relay: the only place that names concrete adapters.

Those of the other database are not imported, as its driver may not be installed.
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.backoff import Exponential
from outbox.database import plaintext_trigger, privileges, row_access
from outbox.database.location import Location
from outbox.database.verification import Expectation
from outbox.dead_letters import maintenance as dead_letter_maintenance
from outbox.dead_letters.source import reading
from outbox.errors import TopologyMismatch
from outbox.runtime import probes, process
from outbox.tables import dead_letters, ordering_secret, outbox, outbox_processes
from outbox.transports import topology
from outbox.transports.base import ConnectionCounter, Publisher, Transport, raise_together
from outbox.transports.connect import management, transport
from outbox.transports.topology import Topology
from outbox.transports.user_topology import with_exchanges
from relay.batch_size import BatchSize
from relay.ordering_key_hash import OrderingKeyHasher
from relay.poll_interval import PollInterval
from relay.relay import Relay
from relay.required_queues import RequiredQueues
from relay.settings import RelaySettings
from relay.storage import ordering_secret as secret
from relay.storage.base import OutboxStore
from relay.storage.settlement import SOURCE
from relay.telemetry import Telemetry
from relay.tracing import traced
from relay.wakeup import Polling, WakeSignal, Wakeup

ROLE = "relay"
LONGEST_LOCK = timedelta(seconds=5)
"""How long `status` and `monitor` wait for a lock, as of a migration or VACUUM FULL."""
RIGHTS = {
    outbox: ["SELECT", "UPDATE", "DELETE"],
    dead_letters: ["SELECT", "INSERT"],
    ordering_secret: ["SELECT"],
    outbox_processes: ["SELECT", "INSERT", "UPDATE", "DELETE"],
}


def declared(settings: RelaySettings) -> Topology:
    """The exchanges that the relay publishes to, with what binds them to each other."""
    base = topology.publishing(
        main_exchange=settings.main_exchange, dlx_exchange=settings.dlx_exchange
    )
    return with_exchanges(base, settings.exchanges, main_exchange=settings.main_exchange)


def broker(settings: RelaySettings, *, connections: ConnectionCounter | None = None) -> Transport:
    """The configured broker; *connections* counts the open connections to it."""
    return transport(settings, name=process.name(ROLE), connections=connections)


def database(settings: RelaySettings) -> AbstractAsyncContextManager[AsyncEngine]:
    """The configured database."""
    return process.database(settings, role=ROLE)


def database_to_look_at(settings: RelaySettings) -> AbstractAsyncContextManager[AsyncEngine]:
    """The configured database for a command that only reads: it names a lock that it meets."""
    return process.database(settings, role=ROLE, lock_timeout=LONGEST_LOCK)


def expectation(settings: RelaySettings) -> Expectation:
    """The database that the relay needs."""
    return Expectation(
        rights=privileges.together(
            RIGHTS,
            dead_letter_maintenance.rights(
                settings.dead_letter_retention, settings.dead_letter_body_retention
            ),
        ),
        source=SOURCE,
        target=settings.main_exchange,
        refusal="MQ_MAIN_EXCHANGE: the events of this schema go to the exchange {recorded}, and"
        " two services need a schema each; to publish them to another exchange from now on, run"
        " `relay topology --adopt`",
    )


async def verified(engine: AsyncEngine, settings: RelaySettings) -> tuple[Location, bytes]:
    """
    Check the tables in the database of *engine*; returns where they are and the ordering secret.

    The first relay records its exchange. Raises SchemaMismatch and DatabaseUnavailable.
    """
    found = await expectation(settings).verify(engine, register=True)
    return found, await secret.read(engine)


async def warnings(engine: AsyncEngine) -> list[str]:
    """What an operator may want to change in the database of *engine*, though the relay works."""
    found = await row_access.warnings(engine)
    if engine.dialect.name != "postgresql":
        return found
    from relay.storage.postgres import sees_all_sessions  # noqa: PLC0415

    if not await sees_all_sessions(engine):
        found.append(
            "mq_oldest_snapshot_age_seconds: sees only transactions of the relay's own role, and"
            " prepared ones: GRANT pg_read_all_stats to the role"
        )
    return found


async def refuses_plaintext(engine: AsyncEngine) -> bool:
    """Whether the outbox in the database of *engine* refuses plaintext."""
    async with reading(engine) as connection:
        return await plaintext_trigger.exists(connection)


def store(
    engine: AsyncEngine,
    settings: RelaySettings,
    *,
    on_standby: Callable[[bool], None] = lambda _: None,
) -> OutboxStore:
    """The outbox in the database of *engine*; see `SqliteStore` for *on_standby*."""
    if engine.dialect.name == "sqlite":
        from relay.storage.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore(engine, on_standby=on_standby)
    from relay.storage.postgres import PostgresStore  # noqa: PLC0415

    return PostgresStore(
        engine, publish_timeout=settings.publish_timeout, pooled=settings.is_pooled
    )


def required_queues(settings: RelaySettings, broker: Transport) -> RequiredQueues | None:
    """
    The queues that have to be bound before the relay publishes; None if there are none.

    Raises ConfigurationError.
    """
    if not settings.required_queues:
        return None
    return RequiredQueues(
        settings.required_queues,
        exchange=settings.main_exchange,
        transport=broker,
        management=management(settings),
    )


async def check_required_queues(settings: RelaySettings) -> None:
    """
    Check that the required queues exist, and that those without a pattern are bound.

    Raises TopologyMismatch, ConfigurationError and BrokerUnavailable.
    """
    needed = required_queues(settings, broker(settings))
    missing = {} if needed is None else await needed.missing(binds=False)
    raise_together([TopologyMismatch(f"MQ_REQUIRED_QUEUES: {each}") for each in missing.values()])


def wakeup(engine: AsyncEngine, settings: RelaySettings, *, notify: Callable[[], None]) -> Wakeup:
    """Calls *notify* for inserted rows, or leaves it to polling."""
    if not settings.is_woken:
        return Polling()
    from relay.storage.postgres_notify import PostgresWakeup  # noqa: PLC0415

    return PostgresWakeup(engine, notify=notify)


def assemble(
    settings: RelaySettings,
    store: OutboxStore,
    publisher: Publisher,
    key_hasher: OrderingKeyHasher,
    *,
    wakeup: Wakeup,
    wake_signal: WakeSignal,
    telemetry: Telemetry,
    health: probes.Health,
) -> Relay:
    """Build the relay between *store* and *publisher*."""
    return Relay(
        store=store,
        publisher=traced(publisher, settings, telemetry),
        wakeup=wakeup,
        wake_signal=wake_signal,
        exchange=settings.main_exchange,
        key_hasher=key_hasher,
        batch_size=BatchSize(
            settings.batch_size, settings.batch_bytes, timeout=settings.publish_timeout
        ),
        policy=settings.retry_policy,
        refused_policy=settings.refused_policy,
        poll_interval=PollInterval(
            timedelta(seconds=settings.poll_min_seconds),
            timedelta(seconds=settings.poll_max_seconds),
        ),
        reconnect=Exponential(
            first=timedelta(milliseconds=200),
            cap=timedelta(seconds=settings.reconnect_max_seconds),
        ),
        telemetry=telemetry,
        health=health,
        jitter=random.random,
        cloudevents=settings.cloudevents_writer,
        require_encryption=settings.require_encryption,
    )
