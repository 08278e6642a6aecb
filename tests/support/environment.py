"""
The environment of a long run: its own database and virtual host, on real servers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.engine import make_url

from outbox.database import migrate
from tests.support.servers import Fleet, PostgresServer, RabbitmqServer


@dataclass(frozen=True, slots=True)
class Environment:
    """
    Both servers, and the database and virtual host of the run.

    Args:
        database_url: The URL of a migrated database.
        vhost: The name of a virtual host.

    """

    postgres: PostgresServer
    rabbitmq: RabbitmqServer
    database_url: str
    vhost: str

    @property
    def database(self) -> str:
        """The name of the database."""
        return make_url(self.database_url).database or ""

    @property
    def broker_url(self) -> str:
        """The URL of the virtual host."""
        return self.rabbitmq.url(self.vhost)


@asynccontextmanager
async def provision() -> AsyncIterator[Environment]:
    """An environment on servers that end with the block."""
    fleet = Fleet()
    try:
        rabbitmq, postgres = fleet.rabbitmq(), fleet.postgres()
        await postgres.start()
        await rabbitmq.start()
        async with postgres.database() as database_url, rabbitmq.vhost() as vhost:
            await asyncio.to_thread(migrate.upgrade, database_url)
            yield Environment(postgres, rabbitmq, database_url, vhost)
    finally:
        fleet.close()
