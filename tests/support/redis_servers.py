"""
Fixtures with Redis: the server of the run, a database of it for a test, and programs for servers
that a test starts itself (`tests/support/servers/redis_groups.py`).

`tests/conftest.py` makes them known.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from yarl import URL

from outbox.transports.redis.addresses import open_client
from tests.support.servers import RedisServer
from tests.support.servers.fleet import REDIS
from tests.support.servers.run import FLEET, or_exit


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_server(pytestconfig: pytest.Config) -> RedisServer:
    server = or_exit(pytestconfig.stash[FLEET].redis)
    await server.start()
    return server


@pytest.fixture
async def redis_url(redis_server: RedisServer) -> AsyncIterator[str]:
    """Give the URL of an empty database of the test's own."""
    async with redis_server.database() as number:
        yield redis_server.url(number)


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    """Give a connection to that database."""
    client = open_client([URL(redis_url)], name="test")
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def redis_binaries() -> Path:
    """Give the directory of the programs of Redis."""
    return or_exit(REDIS.programs)
