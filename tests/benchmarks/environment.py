"""
The environment of the benchmarks: their own database and virtual host.

The servers are those of the tests: private ones that end with the run, or those that
OUTBOX_TEST_DATABASE_URL and OUTBOX_TEST_BROKER_URL name.
"""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg  # type: ignore[import-untyped]
from aio_pika.abc import AbstractChannel
from yarl import URL

from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Binding, Queue, Topology, publishing
from tests.benchmarks import outbox_rows
from tests.benchmarks.contenders import EXCHANGE
from tests.benchmarks.peer_programs import Installed, Peer, install
from tests.benchmarks.programs import Program
from tests.support.environment import provision as provision_servers
from tests.support.processes import REPOSITORY
from tests.support.servers.isolation import private_directory

QUEUE = "benchmark"
PURGE_EVERY_SECONDS = 2.0


class Purged:
    """How many messages were taken out of the queue since `forget`."""

    def __init__(self) -> None:
        self.count = 0

    def forget(self) -> None:
        """Begin at zero."""
        self.count = 0


@dataclass(frozen=True, slots=True)
class Environment:
    """
    Connections of the benchmarks, and the addresses that programs need.

    Args:
        database: A connection that fills and empties the table.
        observer: A connection that reads the table meanwhile.
        installed: The relays of others.
        purged: The messages that were in the queue so far.

    """

    database_url: str
    broker_url: str
    directory: Path
    database: Any
    observer: Any
    channel: AbstractChannel
    broker_version: str
    installed: Installed
    purged: Purged = field(default_factory=Purged)

    def program(self, module: str, *arguments: str, ready: str, **variables: str) -> Program:
        """
        Run `python -m` *module*, which writes *ready* when it waits for work.

        *variables* are added to its environment.
        """
        command = [sys.executable, "-m", module, *arguments]
        return self._program(module, command, ready=ready, variables=variables)

    def peer(self, peer: Peer, *arguments: str, ready: str = "ready") -> Program:
        """The relay of others, by the interpreter of its own environment."""
        module = f"tests.benchmarks.peers.{peer.module}"
        command = [str(self.installed.pythons[peer.name]), "-m", module, *arguments]
        variables = {"EXCHANGE": EXCHANGE}
        return self._program(
            peer.module, command, ready=ready, variables=variables, is_foreign=True
        )

    def full_job(self, *arguments: str, **variables: str) -> Program:
        """The program in C; there has to be one."""
        broker = URL(self.broker_url)
        addresses = {
            "DATABASE": self.database_url.replace("+asyncpg", ""),
            "BROKER_HOST": broker.host or "",
            "BROKER_PORT": str(broker.port),
            "BROKER_USER": broker.user or "",
            "BROKER_PASSWORD": broker.password or "",
            "BROKER_VHOST": broker.path.removeprefix("/"),
            "EXCHANGE": EXCHANGE,
        }
        return self._program(
            "full_job",
            [str(self.installed.full_job), *arguments],
            ready="ready",
            variables={**addresses, **variables},
            is_foreign=True,
        )

    def _program(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: str,
        variables: Mapping[str, str],
        is_foreign: bool = False,
    ) -> Program:
        return Program(
            command,
            log=self.directory / f"{name}.{secrets.token_hex(4)}.log",
            environment={**self._environment(), **variables},
            directory=self.directory,
            ready=ready,
            is_foreign=is_foreign,
        )

    def relay(self, **variables: str) -> Program:
        """The product's relay, with its default settings but for *variables*."""
        return self.program("relay", "run", ready="relay_started", **variables)

    def contender(self, name: str, *arguments: str) -> Program:
        """One of `contenders.py`."""
        return self.program("tests.benchmarks.contenders", name, *arguments, ready="ready")

    def consumer(self, name: str, **variables: str) -> Program:
        """One of `consumers.py`, with the product's default settings."""
        target = f"tests.benchmarks.consumers:{name}"
        return self.program("consumer", "run", target, ready="consumer_started", **variables)

    @asynccontextmanager
    async def unbound(self) -> AsyncIterator[None]:
        """During the block the queue that no consumer reads gets no copy of messages."""
        queue = await self.channel.get_queue(QUEUE, ensure=False)
        await queue.unbind(EXCHANGE, "#")
        try:
            yield
        finally:
            await queue.bind(EXCHANGE, "#")

    async def purge(self, name: str = QUEUE) -> int:
        """Empty a queue; returns how many messages were in it."""
        queue = await self.channel.get_queue(name, ensure=False)
        answer = await queue.purge()
        count = answer.message_count or 0
        if name == QUEUE:
            self.purged.count += count
        return count

    async def is_unread(self, name: str) -> bool:
        """Whether the queue has no consumer."""
        queue = await self.channel.declare_queue(name, passive=True)
        return queue.declaration_result.consumer_count == 0

    def _environment(self) -> dict[str, str]:
        # Nothing that a developer has set for the product comes in between, nor a file `.env`:
        # programs run in a directory of the benchmark's own.
        return {
            **inherited(),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "MQ_DATABASE_URL": self.database_url,
            "MQ_BROKER_URL": self.broker_url,
            "MQ_ALLOW_INSECURE": "true",
            "MQ_METRICS_PORT": "0",
            "MQ_LOG_FORMAT": "json",
        }


def inherited() -> dict[str, str]:
    """
    The environment of this process without any setting of the product.

    Programs keep their bytecode, as an installed package does: else each start would compile all
    modules of the product again, which takes longer than to import them.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MQ_") and name != "PYTHONDONTWRITEBYTECODE"
    }


@asynccontextmanager
async def provision(*, with_peers: bool) -> AsyncIterator[Environment]:
    """
    A migrated database, a bound quorum queue, and a purge of it every two seconds.

    Args:
        with_peers: Whether relays of others are installed, from a registry if need be.

    """
    directory = private_directory()
    installed = await asyncio.to_thread(install, with_peers=with_peers)
    try:
        async with provision_servers() as servers:
            await _declare(servers.broker_url)
            async with _connected(
                servers.database_url, servers.broker_url, directory, installed
            ) as environment:
                await outbox_rows.stock_up(environment.database)
                purging = asyncio.ensure_future(_keep_empty(environment))
                try:
                    yield environment
                finally:
                    purging.cancel()
                    with suppress(asyncio.CancelledError):
                        await purging
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _declare(broker_url: str) -> None:
    base = publishing(main_exchange=EXCHANGE, dlx_exchange="health_data_dlx")
    transport = RabbitMQTransport([URL(broker_url)], heartbeat_seconds=60, name="benchmark")
    await transport.declare(
        Topology(
            base.exchanges,
            [Queue(QUEUE, {"x-queue-type": "quorum"})],
            [Binding(EXCHANGE, QUEUE, "#")],
        )
    )


@asynccontextmanager
async def _connected(
    database_url: str, broker_url: str, directory: Path, installed: Installed
) -> AsyncIterator[Environment]:
    dsn = database_url.replace("+asyncpg", "")
    database, observer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    # The looks must stay cheap whatever the statistics say in the middle of a run.
    await observer.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    broker = await aio_pika.connect(broker_url)
    try:
        channel = await broker.channel(publisher_confirms=False)
        properties = broker.transport.connection.server_properties if broker.transport else {}
        version = str(properties.get("version", "unknown"))
        yield Environment(
            database_url, broker_url, directory, database, observer, channel, version, installed
        )
    finally:
        await broker.close()
        await observer.close()
        await database.close()


async def _keep_empty(environment: Environment) -> None:
    """Purge the queue regularly, so that the broker's memory stays the same for all contenders."""
    while True:
        await asyncio.sleep(PURGE_EVERY_SECONDS)
        await environment.purge()
