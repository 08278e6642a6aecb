"""
The environment of the benchmarks: their own database and virtual host.

The servers are those of the tests: private ones that end with the run, or those that
MQ_TEST_DATABASE_URL and MQ_TEST_BROKER_URL name.
"""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
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
from tests.benchmarks.programs import Program
from tests.support.environment import provision as provision_servers
from tests.support.processes import REPOSITORY
from tests.support.servers.isolation import private_directory

QUEUE = "benchmark"
PURGE_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Environment:
    """
    Connections of the benchmarks, and the addresses that programs need.

    Args:
        database: A connection that fills and empties the table.
        observer: A connection that reads the table meanwhile.

    """

    database_url: str
    broker_url: str
    directory: Path
    database: Any
    observer: Any
    channel: AbstractChannel
    broker_version: str

    def program(self, module: str, *arguments: str, ready: str, **variables: str) -> Program:
        """
        Run `python -m` *module*, which writes *ready* when it waits for work.

        *variables* are added to its environment.
        """
        return Program(
            [sys.executable, "-m", module, *arguments],
            log=self.directory / f"{module}.{secrets.token_hex(4)}.log",
            environment={**self._environment(), **variables},
            directory=self.directory,
            ready=ready,
        )

    def relay(self) -> Program:
        """The product's relay, with its default settings."""
        return self.program("relay", "run", ready="relay_started")

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
        return answer.message_count or 0

    def _environment(self) -> dict[str, str]:
        # Nothing that a developer has set for the product comes in between, nor a file `.env`:
        # programs run in a directory of the benchmark's own.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MQ_")}
        return {
            **inherited,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "MQ_DATABASE_URL": self.database_url,
            "MQ_BROKER_URL": self.broker_url,
            "MQ_ALLOW_INSECURE": "true",
            "MQ_METRICS_PORT": "0",
            "MQ_LOG_FORMAT": "json",
        }


@asynccontextmanager
async def provision() -> AsyncIterator[Environment]:
    """A migrated database, a bound quorum queue, and a purge of it every two seconds."""
    directory = private_directory()
    try:
        async with provision_servers() as servers:
            await _declare(servers.broker_url)
            async with _connected(
                servers.database_url, servers.broker_url, directory
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
    database_url: str, broker_url: str, directory: Path
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
            database_url, broker_url, directory, database, observer, channel, version
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
