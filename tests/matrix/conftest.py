"""
An environment for each test on the shared servers, and the options of the matrix.
"""

import pytest

from tests.support.environment import Environment
from tests.support.servers import PostgresServer, RabbitmqServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=60, help="how many processes are killed in a loop"
    )
    parser.addoption(
        "--resets", type=int, default=100, help="how often all connections are reset in a loop"
    )


@pytest.fixture
def environment(
    postgres_server: PostgresServer,
    postgres_url: str,
    rabbitmq_server: RabbitmqServer,
    rabbitmq_vhost: str,
) -> Environment:
    return Environment(postgres_server, rabbitmq_server, postgres_url, rabbitmq_vhost)
