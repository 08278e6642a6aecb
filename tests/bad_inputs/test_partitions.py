"""
Partitions that cannot be, and commands for consumers that have none.
"""

import pytest

from consumer import Consumer
from outbox.errors import ConfigurationError
from tests.support.commands import CommandLine

PARTITIONED = "tests.support.partitioned:consumer"


@pytest.fixture
def command(sqlite_url, embedded_broker_url, tmp_path) -> CommandLine:
    return CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_BROKER_URL=embedded_broker_url)


@pytest.mark.parametrize("partitions", [0, -1, 257, True, "8", 2.0])
def test_partitions_that_cannot_be_are_refused(partitions):
    with pytest.raises(ConfigurationError, match="etl: partitions must be a number from 1 to 256"):
        Consumer("etl", bindings=["#"], ordered=True, partitions=partitions)
    with pytest.raises(ConfigurationError, match="etl: partitions keep an order"):
        Consumer("etl", bindings=["#"], partitions=2)


@pytest.mark.parametrize(
    ("target", "number", "problem"),
    [
        ("tests.support.ordered:consumer", "4", "consumer ordered: has no partitions"),
        (PARTITIONED, "4", "MQ_BROKER_URL: only RabbitMQ has partitions"),
        (PARTITIONED, "0", "than or equal to 1"),
        (PARTITIONED, "257", "than or equal to 256"),
    ],
)
def test_a_consumer_that_cannot_be_scaled_is_refused(command, target, number, problem):
    ended = command("consumer", "scale", target, number)

    assert ended.code == 2
    assert problem in ended.err


def test_a_process_that_may_not_declare_partitions_asks_for_them(
    postgres_url, rabbitmq_url, tmp_path
):
    command = CommandLine(
        tmp_path, MQ_DATABASE_URL=postgres_url, MQ_BROKER_URL=rabbitmq_url, MQ_METRICS_PORT="0"
    )
    assert command("consumer", "topology", PARTITIONED).code == 0

    ended = command("consumer", "run", PARTITIONED, MQ_DECLARE_TOPOLOGY="false")

    assert ended.code == 2
    assert "its partitions are not declared: run `consumer scale`" in ended.out + ended.err
