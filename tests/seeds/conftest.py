"""
The product on servers, and on SQLite files.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment


@pytest.fixture(
    params=[("postgres_url", "rabbitmq_url"), ("sqlite_url", "embedded_broker_url")],
    ids=["servers", "embedded"],
)
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Give the URLs of a migrated database and of a broker."""
    database, broker = request.param
    return request.getfixturevalue(database), request.getfixturevalue(broker)


@pytest.fixture
async def deployment(urls: tuple[str, str], tmp_path: Path) -> AsyncIterator[Deployment]:
    """Yield a deployment without processes."""
    logs = tmp_path / "logs"
    logs.mkdir()
    async with Deployment(*urls, logs) as made:
        yield made
