"""
Putting relay and consumers together for a test: the composition root of tests.
"""

import copy
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

import consumer.assembly
import relay.assembly
from consumer import checks
from consumer.bound import Bound, bind
from consumer.consumer import Consumer
from consumer.encryption import decryption
from consumer.lifespan import entered
from consumer.settings import ConsumerSettings
from outbox import producer_encryption
from outbox.errors import ConfigurationError
from outbox.exchange import Binding as Chosen
from outbox.runtime import probes
from outbox.transports.base import Publisher, Transport
from outbox.transports.connect import transport
from outbox.transports.topology import Binding, Queue, Topology
from outbox_testing import database as databases
from outbox_testing.app import App, Parts
from outbox_testing.brokers import PulledQueues, pulled_queues
from outbox_testing.clock import SkippingClock
from outbox_testing.handling import Handling
from outbox_testing.publishing import Publishing
from outbox_testing.pulled import PulledSubscription, without_time
from outbox_testing.record import ConsumerTelemetry, Record, RecordingPublisher, RelayTelemetry
from outbox_testing.settings import (
    GivenConsumerSettings,
    GivenRelaySettings,
    check_names,
    make,
)
from relay.ordering_key_hash import OrderingKeyHasher
from relay.settings import RelaySettings
from relay.storage import ordering_secret

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption


@asynccontextmanager
async def running(
    *consumers: Consumer,
    database: str | Path | URL | AsyncEngine | None = None,
    broker: str | None = None,
    tables: sa.MetaData | Sequence[sa.MetaData] = (),
    resources: object = None,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[App]:
    """
    Run a relay and *consumers* in this process, one step after another when the test says so.

        async with running(etl, tables=Base.metadata) as app:
            await app.call("upload.taken", {"size": 3})      # one handler
            await app.record(Event("upload.taken", {"size": 3}))
            await app.drain()                                # the whole way

    Args:
        consumers: The consumers; none for a test of a producer.
        database: A SQLAlchemy URL, the path of a SQLite file, or an engine. It is migrated if it
            has no tables of the product. Give each test its own: all events in it are published.
            None for a SQLite file that ends with the block.
        broker: The URL of a RabbitMQ; exchanges and queues get names of their own, and are deleted
            at the end. None for the embedded broker.
        tables: Tables of the application, which are created if they are missing.
        resources: A value in place of that of each `lifespan`, which is not entered then: fakes.
        settings: Settings of both processes by their names without the prefix, as
            `{"max_retries": 1}`. The others have their defaults: the environment and `.env` are
            not read.

    It starts no process and no server, handles no signal and configures no log. Raises
    ConfigurationError, SchemaMismatch, DatabaseUnavailable and BrokerUnavailable.

    """
    given = dict(settings or {})
    check_names(given)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outbox-test-")))
        url = databases.url_of(directory / "outbox.db" if database is None else database)
        metadata = [tables] if isinstance(tables, sa.MetaData) else list(tables)
        engine = await stack.enter_async_context(
            databases.opened(url, metadata, schema=given.get("database_schema"))
        )
        deployment = Deployment(
            consumers,
            engine,
            given,
            database_url=url,
            broker_url=f"sqlite:///{directory / 'broker.db'}" if broker is None else broker,
            resources=resources,
        )
        yield await deployment.start(stack)


@dataclass(frozen=True, slots=True)
class _Servers:
    """The connections to the broker, and what is recorded about the use of them."""

    queues: PulledQueues
    publisher: Publisher
    record: Record
    clock: SkippingClock


class Deployment:
    """Relay and *consumers* on the database of *engine*, with the settings *given*."""

    def __init__(
        self,
        consumers: Sequence[Consumer],
        engine: AsyncEngine,
        given: Mapping[str, Any],
        *,
        database_url: URL,
        broker_url: str,
        resources: object,
    ) -> None:
        names = [each.name for each in consumers]
        if len(set(names)) < len(names):
            raise ConfigurationError("consumers: two of them have one name")
        prefix = f"outbox-test-{uuid4().hex[:12]}"
        own = {
            "database_url": database_url.render_as_string(hide_password=False),
            "broker_url": broker_url,
            "main_exchange": prefix,
            "dlx_exchange": f"{prefix}.dlx",
            "management_url": None,
        }
        self._declared = consumers
        self._resources = resources
        self._engine = engine
        self._database_url = database_url
        self._prefix = prefix
        self._broker_url = broker_url
        self._relay: RelaySettings = make(GivenRelaySettings, given, **own)
        self._settings: ConsumerSettings = make(
            GivenConsumerSettings, given, **own, processing_queue=prefix
        )
        self._consumers = [_with_own_queue(each) for each in consumers]
        for each in self._consumers:
            checks.check_handlers(each)
            checks.check(each, self._settings)

    async def start(self, stack: AsyncExitStack) -> App:
        """Declare the queues and connect; *stack* undoes both."""
        broker = transport(self._settings, name="outbox test")
        queues = await stack.enter_async_context(pulled_queues(self._settings))
        await self._declare(broker, queues, stack)
        servers = _Servers(
            queues,
            await stack.enter_async_context(broker.publisher()),
            Record(self._patterns(), self._prefix),
            SkippingClock(),
        )
        stack.callback(producer_encryption.use, producer_encryption.chosen())
        reads = await stack.enter_async_context(decryption(self._settings, name="outbox test"))
        secret = await ordering_secret.read(self._engine)
        publishing = Publishing(
            self._relay,
            self._engine,
            RecordingPublisher(servers.publisher, servers.record, reads),
            OrderingKeyHasher(secret),
            RelayTelemetry(servers.record, exchange=self._prefix),
        )
        parts = Parts(
            database_url=self._database_url,
            broker_url=self._broker_url,
            engine=self._engine,
            exchange=self._prefix,
            publishing=publishing,
            handlings=[
                self._handling(*each, await self._bound(each[1], stack), servers, reads)
                for each in zip(self._declared, self._consumers, strict=True)
            ],
            record=servers.record,
            clock=servers.clock,
        )
        return App(parts)

    async def _declare(
        self, broker: Transport, queues: PulledQueues, stack: AsyncExitStack
    ) -> None:
        for topology in self._topologies():
            stack.push_async_callback(queues.delete, topology)
            await broker.declare(topology)

    def _topologies(self) -> list[Topology]:
        """Of the relay, with a queue that takes every event, and of each consumer."""
        every = Queue(f"{self._prefix}.every", {"x-queue-type": "quorum"})
        base = relay.assembly.declared(self._relay)
        declared = [consumer.assembly.declared(each, self._settings) for each in self._consumers]
        exchanges = {each.name: each for one in (base, *declared) for each in one.exchanges}
        of_relay = replace(
            base,
            exchanges=list(exchanges.values()),
            queues=[every],
            # A direct exchange has no binding for all messages.
            bindings=[
                Binding(each.name, every.name, "#")
                for each in exchanges.values()
                if each.kind != "direct"
            ],
        )
        return [of_relay, *(replace(without_time(each), exchanges=()) for each in declared)]

    def _patterns(self) -> list[str]:
        """The patterns by which consumers and exchanges get messages of the main exchange."""
        exchanges = list(self._relay.exchanges)
        bindings: list[str | Chosen] = []
        for each in self._consumers:
            bindings += each.bindings
            exchanges += each.exchanges
        bindings += [binding for exchange in exchanges for binding in exchange.bindings]
        return [binding for binding in bindings if isinstance(binding, str)]

    async def _bound(self, own: Consumer, stack: AsyncExitStack) -> Bound:
        if self._resources is not None:
            return bind(own, self._resources)
        return bind(own, await stack.enter_async_context(entered(own.lifespan)))

    def _handling(
        self,
        declared: Consumer,
        own: Consumer,
        bound: Bound,
        servers: _Servers,
        reads: "Decryption | None",
    ) -> Handling:
        queues = checks.queues(own, self._settings)
        telemetry = ConsumerTelemetry(
            servers.record, source=own.name, queue=queues.name, known=own.handlers
        )
        tasks = consumer.assembly.assemble(
            own,
            self._settings,
            self._engine,
            telemetry=telemetry,
            health=probes.Health(),
            bound=bound,
            decryption=reads,
            jitter=lambda: 0.0,
        )
        subscription = PulledSubscription(queues, servers.queues, servers.publisher, servers.clock)
        return Handling(declared, own, bound, tasks, subscription, servers.clock)


def _with_own_queue(declared: Consumer) -> Consumer:
    """*declared*, with a queue that has the prefix of the test: a server may have its real one."""
    own = copy.copy(declared)
    own.queue = None
    # A test takes the messages from one queue, and handles them one after another.
    own.partitions = None
    return own
