"""
Where everything takes place: a database and a virtual host of the benchmark's own.

The servers come from where those of the tests come from: private ones that end with the run, or
those that MQ_TEST_DATABASE_URL and MQ_TEST_BROKER_URL name.
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
from tests.benchmarks import filling
from tests.benchmarks.contenders import EXCHANGE
from tests.benchmarks.programs import Program
from tests.support import site
from tests.support.processes import REPOSITORY
from tests.support.servers.ground import private_directory

QUEUE = "benchmark"
PURGE_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Site:
    """
    Connections of the driver, and what programs need to find the servers.

    Args:
        database: Fills and empties the table.
        eye: Looks at it meanwhile.

    """

    database_url: str
    broker_url: str
    directory: Path
    database: Any
    eye: Any
    channel: AbstractChannel
    broker_version: str

    def program(self, module: str, *arguments: str, ready: str, **variables: str) -> Program:
        """
        `python -m` *module*, which says *ready* when it waits for work.

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
        """Without a copy of each message in the queue that is not consumed."""
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
async def lend() -> AsyncIterator[Site]:
    """A migrated database, a bound quorum queue, and a purge of it every two seconds."""
    directory = private_directory()
    try:
        async with site.lend() as ground:
            await _declare(ground.broker_url)
            async with _connected(ground.database_url, ground.broker_url, directory) as place:
                await filling.stock_up(place.database)
                purging = asyncio.ensure_future(_keep_empty(place))
                try:
                    yield place
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
async def _connected(database_url: str, broker_url: str, directory: Path) -> AsyncIterator[Site]:
    dsn = database_url.replace("+asyncpg", "")
    database, eye = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    # The looks must stay cheap whatever the statistics say in the middle of a run.
    await eye.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    broker = await aio_pika.connect(broker_url)
    try:
        channel = await broker.channel(publisher_confirms=False)
        told = broker.transport.connection.server_properties if broker.transport else {}
        version = str(told.get("version", "unknown"))
        yield Site(database_url, broker_url, directory, database, eye, channel, version)
    finally:
        await broker.close()
        await eye.close()
        await database.close()


async def _keep_empty(site: Site) -> None:
    """Purge now and then, so that the broker's memory stays flat and the same for all."""
    while True:
        await asyncio.sleep(PURGE_EVERY_SECONDS)
        await site.purge()
