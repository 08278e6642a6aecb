"""
Postgres and RabbitMQ of a test's own, whose files it may search, or files instead of both.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.canary.markers import Search
from tests.support.canary.places import files, records_of_wal
from tests.support.servers.fleet import POSTGRES, RABBITMQ
from tests.support.servers.isolation import memory_or_disk
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.private_postgres import SMALL_SEGMENTS, PrivatePostgres
from tests.support.servers.private_rabbitmq import PrivateRabbitmq
from tests.support.servers.rabbitmq import RabbitmqServer

VERBOSE = {
    "log_statement": "all",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "log_error_verbosity": "verbose",
    "wal_keep_size": "512MB",
    "min_wal_size": "512MB",
    "max_wal_size": "1GB",
}
"""A Postgres that logs all values, and that keeps its whole WAL."""


@dataclass(frozen=True)
class Servers:
    """
    URLs of database, broker and key database.

    *outage* kills the servers and starts them again. *look* searches their files, and stops them.
    """

    database_url: str
    broker_url: str
    keys: str
    outage: Callable[[], Awaitable[None]]
    look: Callable[[Search], Awaitable[None]]


def on_files(directory: Path) -> Servers:
    """SQLite and the embedded broker, with all files in *directory*."""

    async def outage() -> None: ...

    async def look(search: Search) -> None:
        for path, data in files(directory):
            name = path.name.partition(".")[0]
            search.look({"outbox": "outbox", "broker": "embedded broker"}.get(name, name), data)

    return Servers(
        f"sqlite+aiosqlite:///{directory / 'outbox.db'}",
        f"sqlite:///{directory / 'broker.db'}",
        f"sqlite:///{directory / 'keys.db'}",
        outage,
        look,
    )


@asynccontextmanager
async def on_servers() -> AsyncIterator[Servers]:
    """Servers that end with the block."""
    parent = memory_or_disk()
    database = PrivatePostgres(
        POSTGRES.programs(), settings=VERBOSE, creating=SMALL_SEGMENTS, parent=parent
    )
    broker = PrivateRabbitmq(RABBITMQ.programs(), parent=parent)
    postgres = PostgresServer(database.url, database)
    rabbitmq = RabbitmqServer(broker.url, broker.management_url, broker)

    async def outage() -> None:
        await asyncio.gather(postgres.kill(), rabbitmq.kill())
        await asyncio.gather(postgres.start(), rabbitmq.start())

    async def look(search: Search) -> None:
        backup = database._directory / "backup"
        await asyncio.gather(rabbitmq.stop(), asyncio.to_thread(_back_up, database, backup))
        await postgres.stop()
        search.look("log of Postgres", postgres.log)
        search.look("log of RabbitMQ", rabbitmq.log)
        wal = database._data / "pg_wal"
        search.look("records of the WAL", records_of_wal(database._binaries, wal))
        for place, directory in (
            ("WAL", wal),
            ("data directory", database._data),
            ("base backup", backup),
            ("disk of RabbitMQ", broker._messages),
        ):
            for _, data in files(directory):
                search.look(place, data)

    try:
        await asyncio.gather(postgres.start(), rabbitmq.start())
        outbox, keys = [await postgres.create_database() for _ in range(2)]
        vhost = await rabbitmq.create_vhost()
        yield Servers(postgres.url(outbox), rabbitmq.url(vhost), postgres.url(keys), outage, look)
    finally:
        postgres.close()
        rabbitmq.close()


def _back_up(database: PrivatePostgres, directory: Path) -> None:
    database._run(
        *("pg_basebackup", "-D", directory, "--checkpoint=fast", "--no-sync"),
        *("-h", "127.0.0.1", "-p", str(database._port), "-U", str(database.url.username)),
        PGPASSWORD=database._password,
    )
