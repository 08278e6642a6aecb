"""
Settings that cannot work: a line that names the setting and its bound, and shows no value.
"""

import pytest
from yarl import URL

from consumer import Consumer
from consumer.checks import check
from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings, load
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from relay.settings import RelaySettings

pytestmark = pytest.mark.usefixtures("clean_environment")

SECRET = "hunter2-of-the-test"
KINDS = {"relay": RelaySettings, "consumer": ConsumerSettings}


def refusal(kind: type[SharedSettings]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(kind)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("process", "name", "values", "bounds"),
    [
        ("relay", "MQ_BATCH_SIZE", ["0", "-1", "1000000000"], ["2", "10000"]),
        ("relay", "MQ_BATCH_BYTES", ["0", "-1", "1000000000000"], ["1024", "268435456"]),
        ("relay", "MQ_HEARTBEAT_SECONDS", ["0", "-1", "100000"], ["1", "600"]),
        ("relay", "MQ_PUBLISH_TIMEOUT_SECONDS", ["0", "-1", "601"], ["0", "600"]),
        ("relay", "MQ_DRAIN_SECONDS", ["0", "-1", "1000000"], ["0", "3600"]),
        ("consumer", "MQ_PREFETCH", ["0", "-1", "65536"], ["1", "65535"]),
        ("consumer", "MQ_CONCURRENCY", ["0", "-1", "1000000000"], ["1", "1000"]),
        ("consumer", "MQ_DELIVERY_LIMIT", ["0", "-1", "1000000000"], ["1", "1000"]),
        ("consumer", "MQ_DEDUPLICATION_RETENTION_HOURS", ["0", "-1"], ["0"]),
        ("consumer", "MQ_LOCK_TIMEOUT_SECONDS", ["0", "-1", "3601"], ["0", "3600"]),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_bound(
    monkeypatch, process, name, values, bounds
):
    for value in values:
        monkeypatch.setenv(name, value)

        line = refusal(KINDS[process])

        assert line.startswith(f"{name}: ")
        assert any(line.endswith(f" {bound}") for bound in bounds)


@pytest.mark.parametrize("value", ["ten", "1.5", "", "1e9", "٣ ", "0x10", SECRET])
@pytest.mark.parametrize("name", ["MQ_BATCH_SIZE", "MQ_HEARTBEAT_SECONDS"])
def test_a_setting_that_is_no_whole_number_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    assert refusal(RelaySettings).startswith(f"{name}: ")


@pytest.mark.parametrize("heartbeat", ["0", "ten", "-1", "100000", "1.5"])
def test_a_heartbeat_in_the_url_cannot_switch_heartbeats_off(heartbeat):
    """The client library takes each of these for none."""
    url = URL(f"amqp://localhost/?heartbeat={heartbeat}")

    transport = RabbitMQTransport([url], heartbeat_seconds=10, name="test")

    assert [url.query.getall("heartbeat") for url in transport._urls] == [["7"]]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@db.example/x?sslmode=disable"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@db.example/x?sslmode=prefer"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@localhost/x?host=db.example"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@localhost:{SECRET}/x"),
        ("MQ_DATABASE_URL", ""),
        ("MQ_DATABASE_URL", SECRET),
        ("MQ_BROKER_URL", f"amqp://u:{SECRET}@10.0.0.1/"),
        ("MQ_BROKER_URL", "amqp://guest:guest@broker.example/"),
        ("MQ_BROKER_URL", f"amqps://guest:{SECRET}@broker.example/"),
        ("MQ_BROKER_URL", f"amqps://u:{SECRET}@broker.example/?no_verify_ssl=1"),
        ("MQ_BROKER_URL", f"amqp://localhost/,amqp://u:{SECRET}@broker.example/"),
        ("MQ_BROKER_URL", f"amqp://u:{SECRET}@localhost:{SECRET}/"),
        ("MQ_BROKER_URL", SECRET),
    ],
)
def test_an_invalid_or_unsafe_address_is_refused_and_not_shown(monkeypatch, name, url):
    monkeypatch.setenv(name, url)

    assert refusal(SharedSettings).startswith(f"{name}: ")


def test_a_retention_that_is_shorter_than_the_path_of_a_message_is_refused(monkeypatch):
    monkeypatch.setenv("MQ_DEDUPLICATION_RETENTION_HOURS", "168")

    with pytest.raises(ConfigurationError, match=r"^MQ_DEDUPLICATION_RETENTION_HOURS: .*at least"):
        check(Consumer("etl", bindings=["#"]), load(ConsumerSettings))
