"""
The Postgres server of the tests.

Invariants:

- Every test has databases of its own; the names are chance, so runs may share a given server.
- URLs are those of the product: `postgresql+asyncpg://user:password@host:port/database`.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.engine import URL, make_url

from tests.support.servers.instance import Instance
from tests.support.servers.server import Server

DRIVER = "postgresql+asyncpg"
CONNECT_SECONDS = 5


class PostgresServer(Server):
    """
    A server of which the tests are superuser.

    Args:
        url: the superuser's URL with the database to administer from.
    """

    def __init__(self, url: str | URL, instance: Instance) -> None:
        super().__init__(instance)
        self._admin = make_url(url).set(drivername=DRIVER)

    def __str__(self) -> str:
        return f"Postgres at {self._admin.host}:{self._admin.port}"

    @property
    def admin_url(self) -> str:
        """The superuser's URL."""
        return self._admin.render_as_string(hide_password=False)

    def url(self, database: str) -> str:
        """Return the URL of *database*."""
        return self._admin.set(database=database).render_as_string(hide_password=False)

    @asynccontextmanager
    async def database(self, *, template: str = "template0") -> AsyncIterator[str]:
        """Lend the URL of a copy of *template*, which is dropped in the end."""
        await self.revive()
        name = await self.create_database(template=template)
        try:
            yield self.url(name)
        finally:
            await self.revive()
            await self.drop_database(name)

    async def create_database(self, *, template: str = "template0") -> str:
        """Create a copy of *template* and return its name."""
        name = f"test_{secrets.token_hex(8)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

        return name

    async def drop_database(self, name: str) -> None:
        """Drop *name* if it exists, and end the sessions that use it."""
        await self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def freeze_database(self, name: str) -> None:
        """Forbid connections to *name*, so that it can be copied at any time."""
        await self.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await self.disconnect_clients(name)

    async def disconnect_clients(self, database: str) -> int:
        """Cut all connections to *database* and return how many there were."""
        async with self.connection() as connection:
            ended: int = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1",
                database,
            )

        return ended

    async def execute(self, statement: str) -> None:
        """Run one *statement* as superuser, outside of a transaction."""
        async with self.connection() as connection:
            await connection.execute(statement)

    @asynccontextmanager
    async def connection(self, database: str | None = None) -> AsyncIterator[Any]:
        """Connect as superuser to *database*, or to the one that the server is run from."""
        connection = await asyncpg.connect(
            host=self._admin.host,
            port=self._admin.port,
            user=self._admin.username,
            password=self._admin.password,
            database=database or self._admin.database,
            ssl=self._admin.query.get("ssl"),
            timeout=CONNECT_SECONDS,
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def _answers(self) -> bool:
        try:
            async with self.connection() as connection:
                return bool(await connection.fetchval("SELECT true"))
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.InterfaceError):
            return False
