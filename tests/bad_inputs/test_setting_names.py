"""
Variables with the prefix MQ_ that are no settings: each command refuses them by their names.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consumer.settings import ConsumerSettings
from outbox import setting_names
from outbox.cli.start import setting_warnings
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings, load
from relay.settings import RelaySettings
from tests.support.commands import CommandLine
from tests.support.processes import REPOSITORY

SECRET = "hunter2-of-the-test"
TARGET = "tests.support.effects:consumer"
COMMANDS = [
    ("relay", "run"),
    ("relay", "migrate"),
    ("relay", "topology"),
    ("relay", "check"),
    ("relay", "status"),
    ("relay", "dead", "list"),
    ("relay", "dead", "drop", "--all", "--because", "test"),
    ("outbox_demo",),
    ("consumer", "run", TARGET),
    ("consumer", "topology", TARGET),
    ("consumer", "check", TARGET),
    ("consumer", "status", TARGET),
    ("consumer", "purge", TARGET),
    ("consumer", "dead", "list", TARGET),
    ("consumer", "dead", "replay", TARGET, "--all", "--because", "test"),
]


def refusal(kind: type[SharedSettings] = RelaySettings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(kind)
    assert SECRET not in str(caught.value)
    return str(caught.value).splitlines()


def test_each_process_knows_the_names_of_the_other_ones_settings():
    shared = SharedSettings.model_fields
    for kind, names in (
        (RelaySettings, setting_names.OF_RELAY),
        (ConsumerSettings, setting_names.OF_CONSUMER),
    ):
        own = {f"MQ_{name}".upper() for name in kind.model_fields if name not in shared}
        assert names == own


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_unknown_variables_and_makes_no_file(command, tmp_path):
    ended = CommandLine(tmp_path)(*command, MQ_DATABASE_URI=f"postgresql://u:{SECRET}@db/x")

    assert (ended.code, ended.err) == (
        2,
        "error: MQ_DATABASE_URI: there is no such setting: do you mean MQ_DATABASE_URL?\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_alembic_refuses_unknown_variables_too(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", REPOSITORY / "alembic.ini", "upgrade", "head"],
        cwd=tmp_path,
        env={"PATH": "", "MQ_DATABASE_URI": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (
        2,
        "error: MQ_DATABASE_URI: there is no such setting: do you mean MQ_DATABASE_URL?\n",
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("mq_database_uri", "do you mean MQ_DATABASE_URL?"),
        ("Mq_Broker_Uri", "do you mean MQ_BROKER_URL?"),
        ("MQ_DB_URL", "do you mean MQ_DATABASE_URL?"),
        ("MQ_AMQP_URL", "do you mean MQ_BROKER_URL?"),
        ("MQ_CONCURENCY", "do you mean MQ_CONCURRENCY?"),
        ("MQ_BATCHSIZE", "do you mean MQ_BATCH_SIZE?"),
        ("MQ_SIZE_BATCH", "do you mean MQ_BATCH_SIZE?"),
        ("MQ_HEARTBEAT", "do you mean MQ_HEARTBEAT_SECONDS?"),
        ("MQ_MAX_RETURNS", "it is now MQ_MAX_REQUEUES"),
        ("MQ_RETURNED_REASONS", "it is now MQ_REQUEUE_REASONS"),
        ("MQ_RABBITMQ_URL", "use MQ_BROKER_URL"),
        ("MQ_DEDUPLICATION_DB_PATH", "use MQ_DATABASE_URL: the records are in the database of "),
        ("MQ_FAILED_QUEUE", "remove it: failed messages move to the table dead_letters"),
        ("MQ_RABBITMQ_MANAGEMENT_URL", "use MQ_MANAGEMENT_URL"),
        ("MQ_ENABLE_PUBLISHER_CONFIRMS", "remove it: publisher confirms are always on"),
        ("MQ_PASSWORD", "MQ_BROKER_URL has host, port, user, password and virtual host"),
        ("MQ_FAVOURITE_COLOUR", "remove it, or see docs/reference/settings.md"),
        ("MQ_", "remove it, or see docs/reference/settings.md"),
    ],
)
def test_an_unknown_variable_is_named_with_the_setting_that_is_meant(
    clean_environment, name, remedy
):
    clean_environment.setenv(name, SECRET)

    (line,) = refusal()

    assert line.startswith(f"{name}: there is no such setting: {remedy}")


def test_all_bad_names_and_values_are_refused_together(clean_environment, tmp_path):
    (tmp_path / ".env").write_text("export MQ_FROM_FILE=1\nOTHER=1\nMQ_LOG_LEVEL=loud\n")
    clean_environment.setenv("MQ_ONE_UNKNOWN", "")
    clean_environment.setenv("MQ_BATCH_SIZE", "0")

    lines = refusal()

    assert [line.split(":")[0] for line in lines] == [
        "MQ_ONE_UNKNOWN",
        "MQ_FROM_FILE in .env",
        "MQ_LOG_LEVEL",
        "MQ_BATCH_SIZE",
    ]


def test_settings_of_the_other_process_are_known(clean_environment):
    clean_environment.setenv("MQ_RETRY_DELAYS", "30s")
    load(RelaySettings)
    clean_environment.delenv("MQ_RETRY_DELAYS")
    clean_environment.setenv("mq_batch_size", "0")
    load(ConsumerSettings)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (b"MQ_WAKEUP\n", "MQ_WAKEUP in .env: has no value: add = and the value"),
        (b"MQ_WAKEUP: poll\n", ".env, line 1: cannot be read: write NAME=value"),
        (b"# \xe9t\xe9\nMQ_WAKEUP=poll\n", ".env: is not UTF-8 text"),
        (
            b"MQ_WAKEUP=poll\nmq_wakeup=notify\n",
            "MQ_WAKEUP: is set twice, in different letter case: remove one",
        ),
        (b"MQ_BATCH_SIZE=\n", "MQ_BATCH_SIZE: is empty: give it a value, or remove it for the "),
    ],
)
def test_a_file_whose_settings_would_be_lost_is_refused(clean_environment, tmp_path, file, line):
    (tmp_path / ".env").write_bytes(file)

    (found,) = refusal()

    assert found.startswith(line)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("production.env"))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (make_directory, "is a directory instead of a file"),
        (make_dangling_link, "is a link to a file that does not exist"),
        (make_loop, "cannot be read"),
    ],
)
def test_settings_of_what_is_no_file_are_refused(clean_environment, tmp_path, make, problem):
    """Docker makes a directory of a file that it is to mount and that does not exist."""
    make(tmp_path / ".env")

    assert refusal() == [f".env: {problem}"]


@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_file_that_this_user_may_not_read_is_refused(clean_environment, tmp_path, call):
    (tmp_path / ".env").write_text("MQ_WAKEUP=poll\n")
    original = getattr(Path, call)

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == ".env":
            raise PermissionError
        return original(path, *arguments, **options)

    clean_environment.setattr(Path, call, refused)

    assert refusal() == [".env: this user may not read the file"]


def test_a_file_of_settings_that_is_hidden_by_the_null_device_is_empty(
    clean_environment, tmp_path
):
    (tmp_path / ".env").symlink_to(os.devnull)

    load(RelaySettings)


def test_the_first_setting_of_a_file_with_a_byte_order_mark_counts(clean_environment, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfMQ_BATCH_SIZE=7\r\nexport MQ_WAKEUP=poll\r\n")

    settings = load(RelaySettings)

    assert (settings.batch_size, settings.wakeup) == (7, "poll")


def test_a_setting_that_is_set_twice_in_the_environment_is_refused(clean_environment):
    clean_environment.setenv("MQ_BATCH_SIZE", "7")
    clean_environment.setenv("mq_batch_size", "8")

    assert refusal() == ["MQ_BATCH_SIZE: is set twice, in different letter case: remove one"]


SERVICE_LINKS = {
    "MQ_SERVICE_HOST": "10.0.0.1",
    "MQ_SERVICE_PORT": "5672",
    "MQ_SERVICE_PORT_AMQP": "5672",
    "MQ_PORT": "tcp://10.0.0.1:5672",
    "MQ_PORT_5672_TCP": "tcp://10.0.0.1:5672",
    "MQ_PORT_5672_TCP_PROTO": "tcp",
    "MQ_PORT_5672_TCP_PORT": "5672",
    "MQ_PORT_5672_TCP_ADDR": "10.0.0.1",
}


def test_variables_that_kubernetes_sets_for_a_service_are_ignored_with_a_warning(
    clean_environment,
):
    for name, value in SERVICE_LINKS.items():
        clean_environment.setenv(name, value)
        clean_environment.setenv(name.replace("MQ_", "MQ_NODE_2_"), value)

    first, second, *_ = setting_warnings(load(RelaySettings))

    for name in SERVICE_LINKS:
        assert name in second
    assert second.endswith(
        "Service named mq: set enableServiceLinks: false in the pod, or rename the Service"
    )
    assert "for a Service named mq-node-2: " in first


def test_a_service_link_in_the_place_of_a_setting_is_refused_with_the_reason(clean_environment):
    clean_environment.setenv("MQ_METRICS_PORT", "tcp://10.0.0.1:8001")

    (line,) = refusal()

    assert line == (
        "MQ_METRICS_PORT: Kubernetes set this variable for a Service named mq-metrics: "
        "set enableServiceLinks: false in the pod, or rename the Service"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("MQ_PORT", "5672"), ("MQ_SERVICE_HOST", "broker"), ("MQ_PORT_5672_TCP", "yes")],
)
def test_a_name_like_a_service_link_with_another_value_is_refused(clean_environment, name, value):
    clean_environment.setenv(name, value)

    assert refusal()[0].startswith(f"{name}: there is no such setting: ")


def test_default_servers_are_named_at_start_and_in_check_and_migrate(tmp_path):
    run = CommandLine(tmp_path, DATABASE_URL=SECRET)
    database = f"MQ_DATABASE_URL: is not set, so the file {tmp_path / 'outbox.db'} is used"
    expected = [
        f"{database}; DATABASE_URL is not read",
        f"MQ_BROKER_URL: is not set, so the file {tmp_path / 'broker.db'} is used",
    ]

    for command, lines in (
        ("migrate", expected[:1]),
        ("check", expected),
        ("topology", expected[1:]),
    ):
        printed = run("relay", command).err.splitlines()
        assert [f"warning: {line}" for line in lines] == printed[: len(lines)]
    started = run("relay", "run", MQ_METRICS_PORT="1", MQ_METRICS_HOST="192.0.2.1").err

    assert all(line in started for line in expected)
    assert started.count('"event": "setting_warning"') == 2
    assert SECRET not in run.printed


def test_servers_that_are_set_are_no_defaults(clean_environment):
    clean_environment.setenv("MQ_DATABASE_URL", "sqlite:///outbox.db")
    clean_environment.setenv("MQ_BROKER_URL", "sqlite:///broker.db")
    assert os.environ["MQ_BROKER_URL"]

    assert setting_warnings(load(RelaySettings)) == []
