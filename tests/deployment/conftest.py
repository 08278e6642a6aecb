"""
One installation for all tests of this folder: it takes seconds to make, and no test changes it.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.installation import Installation, installed
from tests.support.servers import PostgresServer, RabbitmqServer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installation(
    postgres_server: PostgresServer,
    rabbitmq_server: RabbitmqServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installation]:
    directory = tmp_path_factory.mktemp("installation")
    async with installed(postgres_server, rabbitmq_server, directory) as made:
        yield made
