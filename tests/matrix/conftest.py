"""
A site of each test's own, on the servers that all tests share.
"""

import pytest

from reliability.site import Site
from tests.support.servers import PostgresServer, RabbitmqServer


@pytest.fixture
def site(
    postgres_server: PostgresServer,
    postgres_url: str,
    rabbitmq_server: RabbitmqServer,
    rabbitmq_vhost: str,
) -> Site:
    return Site(postgres_server, rabbitmq_server, postgres_url, rabbitmq_vhost)
