import pytest

from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings, load
from relay.settings import RelaySettings

pytestmark = pytest.mark.usefixtures("clean_environment")

SECRET = "hunter2-of-the-test"


def test_with_nothing_set_everything_is_in_sqlite_files_of_the_working_directory():
    settings = load(SharedSettings)

    assert settings.database.drivername == "sqlite"
    assert settings.brokers[0].scheme == "sqlite"


def test_settings_come_from_the_environment_and_from_dotenv(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("MQ_BATCH_SIZE=7\nMQ_MAIN_EXCHANGE=from_file\n")
    monkeypatch.setenv("MQ_BATCH_SIZE", "8")

    settings = load(RelaySettings)

    assert (settings.batch_size, settings.main_exchange) == (8, "from_file")


@pytest.mark.parametrize("written", ["[1, 2.5]", "1, 2.5", "1,2.5,"])
def test_retry_delays_are_a_list(monkeypatch, written):
    monkeypatch.setenv("MQ_RETRY_DELAYS", written)

    assert load(ConsumerSettings).retry_delays == (1, 2.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MQ_PREFETCH", "1"),
        ("MQ_RETRY_DELAYS", "[]"),
        ("MQ_RETRY_DELAYS", "[0]"),
        ("MQ_RETRY_DELAYS", "[30, 300"),
        ("MQ_RETRY_DELAYS", "soon"),
        ("MQ_METRICS_PORT", "65536"),
        ("MQ_MAIN_EXCHANGE", ""),
        ("MQ_MAIN_EXCHANGE", "with space"),
        ("MQ_POLL_MIN_SECONDS", "2"),
        ("MQ_PUBLISH_RETRY_FIRST_SECONDS", "400"),
        ("MQ_DATABASE_POOL_SIZE", "2"),
        ("MQ_REQUEUE_REASONS", "bored"),
        ("MQ_LOG_LEVEL", "loud"),
        ("MQ_REDACTED_LOGGERS", "fhir.*"),
        ("MQ_DATABASE_URL", "nonsense"),
        ("MQ_DATABASE_URL", "mysql://db"),
        ("MQ_DATABASE_URL", "sqlite://"),
        ("MQ_DATABASE_URL", "sqlite:///:memory:"),
        ("MQ_DATABASE_URL", "sqlite:///a?b.db"),
        ("MQ_BROKER_URL", "sqlite:///:memory:"),
        ("MQ_BROKER_URL", "sqlite:///a?b.db"),
        ("MQ_BROKER_URL", "sqlite:///a#b.db"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@db.example/x"),
        ("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@db.example/x?sslmode=require"),
        ("MQ_DATABASE_URL", f"postgresql://u:p@ss:{SECRET}@localhost:5432/x"),
        ("MQ_DATABASE_URL", "postgresql://u:p@localhost/x?connect_timeout=5"),
        ("MQ_BROKER_URL", f"amqps://u:{SECRET}@broker.example/?cafile=x&no_verify_ssl=false"),
        ("MQ_BROKER_URL", ""),
        ("MQ_BROKER_URL", "http://broker"),
        ("MQ_BROKER_URL", "amqp://localhost,sqlite:///x.db"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable_and_no_secret(monkeypatch, name, value):
    of_consumers = name.removeprefix("MQ_").lower() in ConsumerSettings.model_fields
    kind = ConsumerSettings if of_consumers else RelaySettings
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load(kind)

    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert SECRET not in str(caught.value)


def test_every_bad_value_has_its_line(monkeypatch):
    monkeypatch.setenv("MQ_BATCH_SIZE", "0")
    monkeypatch.setenv("MQ_LOG_LEVEL", "loud")

    with pytest.raises(ConfigurationError) as caught:
        load(RelaySettings)

    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MQ_DATABASE_URL", "postgresql://u:p@db.example/x?sslmode=verify-full"),
        ("MQ_DATABASE_URL", "postgresql+asyncpg://u:p@127.0.0.1:5432/x"),
        ("MQ_DATABASE_URL", "postgresql:///x?host=/run/postgresql"),
        ("MQ_DATABASE_URL", "postgres://u:p%40ss@localhost/x"),
        ("MQ_BROKER_URL", "amqps://u:p@broker.example/vhost"),
        ("MQ_BROKER_URL", "amqp://guest:guest@localhost/"),
        ("MQ_BROKER_URL", "amqps://u:p@one.example/,amqps://u:p@two.example/"),
    ],
)
def test_secure_and_local_addresses_are_accepted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    load(SharedSettings)


def test_insecure_addresses_are_accepted_if_the_setting_allows_them(monkeypatch):
    monkeypatch.setenv("MQ_BROKER_URL", "amqp://guest:guest@broker.example/")
    monkeypatch.setenv("MQ_DATABASE_URL", "postgresql://u:p@db.example/x")
    monkeypatch.setenv("MQ_ALLOW_INSECURE", "true")

    load(SharedSettings)


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("sqlite:///x.db", True),
        ("postgresql://u:p@127.0.0.1/x", True),
        ("postgresql://u:p@[::1]/x", True),
        ("postgresql:///x?host=/run/postgresql", True),
        ("postgresql:///x?host=localhost,db.example&sslmode=verify-full", False),
        ("postgresql://u:p@db.example/x?sslmode=verify-full", False),
    ],
)
def test_tracebacks_are_refused_with_a_database_beyond_loopback(monkeypatch, url, is_allowed):
    monkeypatch.setenv("MQ_DATABASE_URL", url)
    monkeypatch.setenv("MQ_LOG_TRACEBACKS", "true")

    if is_allowed:
        assert load(SharedSettings).log_tracebacks
    else:
        with pytest.raises(ConfigurationError, match=r"^MQ_LOG_TRACEBACKS: needs a database on"):
            load(SharedSettings)
        monkeypatch.setenv("MQ_ALLOW_INSECURE", "true")
        assert load(SharedSettings).log_tracebacks


def test_settings_do_not_show_passwords(monkeypatch):
    monkeypatch.setenv("MQ_BROKER_URL", f"amqp://u:{SECRET}@localhost/")

    assert SECRET not in repr(load(SharedSettings))


def test_a_relay_on_postgres_refuses_a_pool_that_is_too_small_for_it(monkeypatch):
    monkeypatch.setenv("MQ_DATABASE_POOL_SIZE", "4")
    load(RelaySettings)
    monkeypatch.setenv("MQ_DATABASE_URL", f"postgresql://u:{SECRET}@localhost/x")

    with pytest.raises(ConfigurationError, match="MQ_DATABASE_POOL_SIZE") as caught:
        load(RelaySettings)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("database", "wakeup", "is_woken"),
    [
        ("postgresql://localhost/x", "notify", True),
        ("postgresql://localhost/x", "poll", False),
        ("postgresql://localhost/x?pgbouncer=1", "notify", False),
        ("sqlite:///outbox.db", "notify", False),
    ],
)
def test_a_relay_is_woken_where_the_database_can_do_so(monkeypatch, database, wakeup, is_woken):
    monkeypatch.setenv("MQ_DATABASE_URL", database)
    monkeypatch.setenv("MQ_WAKEUP", wakeup)

    assert load(RelaySettings).is_woken is is_woken
