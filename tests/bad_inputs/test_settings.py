"""
Settings that cannot work: a line that names the setting and its bound, and shows no value.
"""

from datetime import timedelta

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


@pytest.mark.parametrize(
    ("mode", "source", "named"),
    [
        ("binary", None, "MQ_CLOUDEVENTS_SOURCE"),
        ("structured", None, "MQ_CLOUDEVENTS_SOURCE"),
        ("both", "/uploads", "MQ_CLOUDEVENTS"),
        ("binary", "", "MQ_CLOUDEVENTS_SOURCE"),
        ("binary", f"/{SECRET} a", "MQ_CLOUDEVENTS_SOURCE"),
        ("binary", "https://clinic.example/é", "MQ_CLOUDEVENTS_SOURCE"),
        ("binary", "a" * 256, "MQ_CLOUDEVENTS_SOURCE"),
        ("binary", "/a\r\nb", "MQ_CLOUDEVENTS_SOURCE"),
        ("binary", "/a\n", "MQ_CLOUDEVENTS_SOURCE"),
    ],
)
def test_cloudevents_need_a_source_that_is_a_uri(monkeypatch, mode, source, named):
    monkeypatch.setenv("MQ_CLOUDEVENTS", mode)
    if source is not None:
        monkeypatch.setenv("MQ_CLOUDEVENTS_SOURCE", source)

    assert refusal(RelaySettings).startswith(f"{named}: ")


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
        ("MQ_DATABASE_SCHEMA", ""),
        ("MQ_DATABASE_SCHEMA", f"pg_{SECRET}"),
        ("MQ_DATABASE_SCHEMA", "$user"),
        ("MQ_DATABASE_SCHEMA", SECRET * 4),
        ("MQ_DATABASE_SCHEMA", SECRET),  # of SQLite
        ("MQ_DATABASE_URL", SECRET),
        ("MQ_BROKER_URL", f"amqp://u:{SECRET}@10.0.0.1/"),
        ("MQ_BROKER_URL", "amqp://guest:guest@broker.example/"),
        ("MQ_BROKER_URL", f"amqps://guest:{SECRET}@broker.example/"),
        ("MQ_BROKER_URL", f"amqps://u:{SECRET}@broker.example/?no_verify_ssl=1"),
        ("MQ_BROKER_URL", f"amqp://localhost/,amqp://u:{SECRET}@broker.example/"),
        ("MQ_BROKER_URL", f"amqp://u:{SECRET}@localhost:{SECRET}/"),
        ("MQ_BROKER_URL", SECRET),
        ("MQ_DATABASE_URL", f"postgresql://u:p@{SECRET}@localhost/x"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@a,b/x"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@localhost/x,postgresql://b/x"),
        ("MQ_BROKER_URL", f"amqp://u:1/{SECRET}@localhost/"),
        ("MQ_BROKER_URL", f"amqp://u:p,{SECRET}@localhost/"),
        ("MQ_BROKER_URL", f"amqp://localhost/?{SECRET}=1"),
        ("MQ_BROKER_URL", "amqp:///x"),
        ("MQ_BROKER_URL", "amqp:/localhost"),
        ("MQ_BROKER_URL", f"redis://u:{SECRET}@redis.example/"),
        ("MQ_BROKER_URL", "rediss://redis.example/"),
        ("MQ_BROKER_URL", f"rediss://u:{SECRET}@redis.example/?no_verify_ssl=1"),
        ("MQ_BROKER_URL", f"redis://u:{SECRET}@localhost/{SECRET}"),
        ("MQ_BROKER_URL", f"redis://u:p#{SECRET}@localhost"),
        ("MQ_BROKER_URL", f"redis+sentinel://u:{SECRET}@localhost/mymaster"),
        ("MQ_ENCRYPTION_KEYS", ""),
        ("MQ_ENCRYPTION_KEYS", SECRET),
        ("MQ_ENCRYPTION_KEYS", f"https://{SECRET}/"),
        ("MQ_ENCRYPTION_KEYS", f"postgresql://u:{SECRET}@keys.example/keys"),
        ("MQ_SUBJECT_KEYS_URL", f"file:///{SECRET}"),
        ("MQ_SUBJECT_KEYS_URL", f"postgresql://u:{SECRET}@10.0.0.1/keys?sslmode=require"),
    ],
)
def test_an_invalid_or_unsafe_address_is_refused_and_not_shown(monkeypatch, name, url):
    monkeypatch.setenv(name, url)

    assert refusal(SharedSettings).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("database", "keys"),
    [
        ("sqlite:///outbox.db", "sqlite:///./outbox.db"),
        (f"postgresql://u:{SECRET}@localhost/health", "postgresql://k:x@localhost:5432/health"),
    ],
)
@pytest.mark.parametrize("name", ["MQ_ENCRYPTION_KEYS", "MQ_SUBJECT_KEYS_URL"])
def test_a_key_database_is_another_one_than_that_of_the_events(monkeypatch, name, database, keys):
    monkeypatch.setenv("MQ_DATABASE_URL", database)
    monkeypatch.setenv(name, keys)

    assert refusal(SharedSettings).startswith(f"{name}: must be another database than MQ_DATABASE")


@pytest.mark.parametrize(
    ("name", "url", "problem"),
    [
        ("MQ_BROKER_URL", "amqps://u:p@b/?keyfile=k.pem", "has keyfile without certfile"),
        ("MQ_BROKER_URL", "amqps://u:p@b/?keyfile=k.pem&certfile=", "certfile is empty"),
        ("MQ_BROKER_URL", "amqps://u:p@b/?cafile=", "cafile is empty"),
        ("MQ_BROKER_URL", "amqp://localhost/?cafile=ca.pem", "cafile needs amqps"),
        ("MQ_BROKER_URL", "amqp://localhost/?no_verify_ssl=1", "no_verify_ssl needs amqps"),
        (
            "MQ_BROKER_URL",
            "amqps://localhost/,amqp://localhost/?certfile=c",
            "certfile needs amqps",
        ),
        ("MQ_MANAGEMENT_URL", "http://localhost/?cafile=ca.pem", "cafile needs https"),
        ("MQ_MANAGEMENT_URL", "https://localhost/?cafile=", "cafile is empty"),
        (
            "MQ_DATABASE_URL",
            "postgresql://localhost/x?sslrootcert=ca.pem",
            "sslrootcert needs sslmode=verify-full",
        ),
        (
            "MQ_DATABASE_URL",
            "postgresql://localhost/x?sslmode=disable&sslrootcert=system",
            "sslrootcert needs sslmode=verify-full",
        ),
        (
            "MQ_DATABASE_URL",
            "postgresql://localhost/x?sslcert=c.pem",
            "sslcert needs sslmode=verify-full",
        ),
        (
            "MQ_DATABASE_URL",
            "postgresql://localhost/x?sslmode=require&sslkey=k.pem",
            "has sslkey without sslcert",
        ),
    ],
)
def test_a_parameter_of_tls_that_would_be_ignored_is_refused(monkeypatch, name, url, problem):
    monkeypatch.setenv(name, url)

    assert refusal(SharedSettings).startswith(f"{name}: {problem}")


@pytest.mark.parametrize("insecure", ["true", "false"])
def test_a_password_with_characters_that_end_it_is_never_taken_for_a_host(monkeypatch, insecure):
    monkeypatch.setenv("MQ_ALLOW_INSECURE", insecure)
    for name, url in (
        ("MQ_DATABASE_URL", f"postgresql://u:p@{SECRET}@localhost/x"),
        ("MQ_BROKER_URL", f"amqp://u:1/{SECRET}@localhost/"),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, url)

            assert refusal(SharedSettings).startswith(f"{name}: is not a URL: write other ")


@pytest.mark.parametrize("written", ["30s", "30,5m", "[30, null]", "soon"])
def test_delays_that_are_no_seconds_are_refused_with_an_example(monkeypatch, written):
    monkeypatch.setenv("MQ_RETRY_DELAYS", written)

    line = "MQ_RETRY_DELAYS: must be numbers of seconds, as in 30,300,900"
    assert refusal(ConsumerSettings) == line


def test_bodies_that_are_kept_for_as_long_as_their_dead_letters_are_refused(monkeypatch):
    monkeypatch.setenv("MQ_DEAD_LETTER_RETENTION_DAYS", "30")
    for days in ("30", "31"):
        monkeypatch.setenv("MQ_DEAD_LETTER_BODY_RETENTION_DAYS", days)
        refused = refusal(KINDS["relay"])
        assert refused.startswith("MQ_DEAD_LETTER_BODY_RETENTION_DAYS: must be below MQ_DEAD_")

    monkeypatch.setenv("MQ_DEAD_LETTER_BODY_RETENTION_DAYS", "29")
    assert load(KINDS["relay"]).dead_letter_body_retention == timedelta(days=29)


def test_a_list_that_is_nested_too_deeply_is_refused(monkeypatch):
    monkeypatch.setenv("MQ_ALLOWED_HEADERS", "[" * 100_000)

    assert refusal(RelaySettings).startswith("MQ_ALLOWED_HEADERS: must be a JSON list")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is empty"),
        (f"https://u:p@{SECRET}/x@localhost:15671", "is not a URL"),
        (f"https://u:{SECRET}@localhost:15671?verify=0", "has a parameter that is none of cafile"),
    ],
)
def test_a_management_url_that_cannot_work_is_refused(monkeypatch, url, problem):
    monkeypatch.setenv("MQ_MANAGEMENT_URL", url)
    monkeypatch.setenv("MQ_ALLOW_INSECURE", "true")

    assert refusal(ConsumerSettings).startswith(f"MQ_MANAGEMENT_URL: {problem}")


def test_a_retention_that_is_shorter_than_the_path_of_a_message_is_refused(monkeypatch):
    monkeypatch.setenv("MQ_DEDUPLICATION_RETENTION_HOURS", "168")

    with pytest.raises(ConfigurationError, match=r"^MQ_DEDUPLICATION_RETENTION_HOURS: .*at least"):
        check(Consumer("etl", bindings=["#"]), load(ConsumerSettings))


REDIS = f"redis://u:{SECRET}@localhost"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"{REDIS}:1,localhost:2", "several servers of Redis are several brokers"),
        (f"{REDIS}:1,{REDIS}:2", "several servers of Redis are several brokers"),
        (
            f"{REDIS}/0?sentinel=a,{REDIS}/1?sentinel=a",
            "URLs of Redis in a list may differ in host and port only",
        ),
        (
            f"{REDIS}?sentinel=a,{REDIS}?sentinel=b",
            "URLs of Redis in a list may differ in host and port only",
        ),
        (
            f"{REDIS}?sentinel=a,redis://u:x@localhost?sentinel=a",
            "URLs of Redis in a list may differ in host and port only",
        ),
        (f"{REDIS},rediss://localhost", "all URLs of the list must have one scheme"),
        (f"{REDIS}?sentinel=", "sentinel is empty"),
        (f"{REDIS}?sentinel=a&cluster=true", "has cluster and sentinel"),
        (f"{REDIS}?cluster=yes", "cluster must be true"),
        (f"{REDIS}/2?cluster=true", "a cluster has the database 0 only"),
        (
            f"{REDIS}?sentinel_password={SECRET}",
            "sentinel_user and sentinel_password need sentinel",
        ),
        (f"{REDIS}?sentinel=a&sentinel_user=b", "has sentinel_user without sentinel_password"),
        ("redis://u@localhost", "has a user without a password"),
        (f"{REDIS}/one", "behind the host stands the number of the database"),
        (f"{REDIS}?db=1", "has a parameter that is none of cafile, "),
        (f"{REDIS}?cafile=ca.pem", "cafile needs rediss"),
        (f"rediss://u:{SECRET}@localhost?keyfile=k.pem", "has keyfile without certfile"),
        ("redis:///0", "has no host"),
    ],
)
def test_a_url_of_redis_that_cannot_work_is_refused(monkeypatch, url, problem):
    monkeypatch.setenv("MQ_BROKER_URL", url)

    assert refusal(SharedSettings).startswith(f"MQ_BROKER_URL: {problem}")


@pytest.mark.parametrize(
    ("url", "number"),
    [
        (f"{REDIS}:6379/15", 1),
        ("redis://localhost", 1),
        (f"{REDIS}:1,localhost:2,localhost:3/0?sentinel=mq", 3),
        (f"rediss://u:{SECRET}@a.example,b.example?cluster=true", 2),
        ("rediss://redis.example?certfile=c.pem&keyfile=k.pem", 1),
    ],
)
def test_a_url_of_redis_that_can_work_is_accepted(monkeypatch, url, number):
    monkeypatch.setenv("MQ_BROKER_URL", url)

    assert len(load(SharedSettings).brokers) == number
