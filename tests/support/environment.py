"""
Where a long run takes place: a database and a virtual host of its own, on real servers.
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
    Both servers, and what of them belongs to the run.

    Args:
        database_url: Of a migrated database.
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
        """The virtual host, as clients want it."""
        return self.rabbitmq.url(self.vhost)


@asynccontextmanager
async def provision() -> AsyncIterator[Environment]:
    """A site on servers that end with the block."""
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
