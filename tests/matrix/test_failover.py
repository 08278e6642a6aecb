"""
Row F19: a Postgres primary is lost, and its synchronous standby is promoted.

Every confirmed commit is on the standby, so no event is lost and no effect lacks its event.
That does not hold for an asynchronous standby; see docs/reference/fault-matrix.md.
"""

import asyncio

import pytest
from sqlalchemy.engine import make_url

from outbox.database import migrate
from tests.support.checked_deployment import CheckedDeployment
from tests.support.eventually import eventually
from tests.support.servers import PostgresServer
from tests.support.servers.fleet import POSTGRES
from tests.support.servers.private_postgres import PrivatePostgres, StandbyPostgres

pytestmark = [pytest.mark.fault, pytest.mark.selection, pytest.mark.timeout(240)]


class Pair:
    """A primary and its synchronous standby."""

    def __init__(self) -> None:
        binaries = POSTGRES.programs()
        primary = PrivatePostgres(binaries)
        self._standby = StandbyPostgres(binaries, primary)
        self.primary = PostgresServer(primary.url, primary)
        self.standby = PostgresServer(self._standby.url, self._standby)

    async def start(self) -> None:
        """Start both; each commit waits for the standby from then on."""
        await self.primary.start()
        await self.standby.start()
        await self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self.primary.execute("SELECT pg_reload_conf()")
        await eventually(self._is_synchronous, message="the standby is not synchronous")

    async def lose_the_primary(self) -> None:
        """Kill the primary for good, and promote the standby."""
        await self.primary.kill()
        await asyncio.to_thread(self._standby.promote)

    def hosts(self, url: str) -> str:
        """The URL of the same database on both hosts, of which clients choose the writable one."""
        address = make_url(url)
        hosts = [f"127.0.0.1:{make_url(s.admin_url).port}" for s in (self.primary, self.standby)]
        query = {"host": hosts, "target_session_attrs": "read-write"}
        found = address._replace(host=None, port=None).set(query=query)
        return found.render_as_string(hide_password=False)

    def close(self) -> None:
        self.standby.close()
        self.primary.close()

    async def _is_synchronous(self) -> bool:
        async with self.primary.connection() as connection:
            return bool(
                await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                )
            )


@pytest.fixture
async def pair():
    pair = Pair()
    try:
        await pair.start()
        yield pair
    finally:
        pair.close()


async def test_promoting_a_synchronous_standby_under_load_loses_no_event(
    pair, rabbitmq_url, tmp_path
):
    """F19: promotion, with MQ_DATABASE_URL as a list of hosts."""
    url = pair.primary.url(await pair.primary.create_database())
    await asyncio.to_thread(migrate.upgrade, url)
    async with CheckedDeployment(pair.hosts(url), rabbitmq_url, tmp_path) as deployment:
        await deployment.start_processes()
        async with deployment.survives("primary lost", progress_seconds=30):
            await pair.lose_the_primary()
