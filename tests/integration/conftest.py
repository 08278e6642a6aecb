"""
The addresses of tests that run once on servers and once on SQLite files.
"""

import pytest


@pytest.fixture(
    params=[("postgres_url", "rabbitmq_url"), ("sqlite_url", "embedded_broker_url")],
    ids=["servers", "embedded"],
)
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Give the URLs of a migrated database and of a broker."""
    database, broker = request.param
    return request.getfixturevalue(database), request.getfixturevalue(broker)
