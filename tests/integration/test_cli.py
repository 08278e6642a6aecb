"""
The command lines: what they print, and the status that they end with.
"""

import asyncio
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from yarl import URL

from outbox.database import migrate
from outbox.database.engine import create_engine
from tests.support.servers.ports import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "hunter2-of-the-test"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty directory and return the finished process."""

    def run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


TARGET = "tests.support.effects:consumer"


def test_from_nothing_to_a_working_set_up_on_sqlite(run, tmp_path):
    before = run("relay", "check")
    assert (before.returncode, before.stderr.strip()) == (
        2,
        "error: the tables are missing: run `relay migrate`",
    )

    assert run("relay", "migrate").returncode == 0
    assert run("relay", "check").returncode == 2
    assert "exchange health_data_exchange (topic)" in run("relay", "topology").stdout
    assert run("relay", "check").returncode == 0
    assert run("consumer", "check", TARGET).returncode == 2
    assert (
        "queue health_data_processing.effects.dead" in run("consumer", "topology", TARGET).stdout
    )
    assert run("consumer", "check", TARGET).returncode == 0
    assert "health_data_processing.effects.retry.30s" in run("consumer", "status", TARGET).stdout
    assert "rows" in run("relay", "status").stdout
    assert {path.name for path in tmp_path.glob("*.db")} == {"outbox.db", "broker.db"}


@pytest.mark.parametrize(
    ("verb", "setting", "argument"),
    [
        ("check", {"MQ_MESSAGE_TTL_SECONDS": "3600"}, "x-message-ttl"),
        ("run", {"MQ_DELIVERY_LIMIT": "7"}, "x-delivery-limit"),
        ("run", {"MQ_DELIVERY_LIMIT": "7", "MQ_DECLARE_TOPOLOGY": "false"}, "x-delivery-limit"),
    ],
)
def test_a_setting_that_the_queue_does_not_have_is_a_line_and_status_2(
    run, rabbitmq_url, verb, setting, argument
):
    broker = {"MQ_BROKER_URL": rabbitmq_url}
    run("relay", "migrate")
    run("consumer", "topology", TARGET, **broker)

    done = run("consumer", verb, TARGET, MQ_METRICS_PORT="0", **broker, **setting)

    assert done.returncode == 2
    [line] = [line for line in (done.stdout + done.stderr).splitlines() if "another" in line]
    assert f"queue health_data_processing.effects exists with another {argument}" in line


def test_a_check_says_what_it_could_not_compare(run, rabbitmq_url, rabbitmq_reader_url):
    run("relay", "migrate")
    run("consumer", "topology", TARGET, MQ_BROKER_URL=rabbitmq_url)

    done = run("consumer", "check", TARGET, MQ_BROKER_URL=rabbitmq_reader_url)

    assert done.returncode == 0, done.stderr
    assert "warning: queue health_data_processing.effects: exists, but" in done.stderr


def test_a_check_finds_settings_that_contradict_each_other(run):
    done = run("consumer", "check", TARGET, MQ_DEDUPLICATION_RETENTION_HOURS="24")

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: MQ_DEDUPLICATION_RETENTION_HOURS: must be at least ")


def test_a_purge_forgets_what_is_older_and_refuses_what_may_come_again(run, tmp_path):
    run("relay", "migrate")
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.executemany(
            "INSERT INTO processed_messages "
            "(consumer, idempotency_key, message_id, type, status, processed_at) VALUES "
            "('effects', ?, ?, 't', 'completed', strftime('%Y-%m-%d %H:%M:%f000', 'now', ?))",
            [(str(days), f"{days:032x}", f"-{days} days") for days in (1, 10, 31, 40)],
        )
        database.commit()

    refused = run("consumer", "purge", TARGET, "--older-than", "7d")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.startswith("error: --older-than: must be at least 168.4 hours, ")

    by_retention = run("consumer", "purge", TARGET)
    assert (by_retention.returncode, by_retention.stdout) == (0, "2 rows forgotten\n")
    assert by_retention.stderr == ""

    below = run("consumer", "purge", TARGET, "--older-than", "8d")
    assert (below.returncode, below.stdout) == (0, "1 rows forgotten\n")
    assert "warning: --older-than: below MQ_DEDUPLICATION_RETENTION_HOURS" in below.stderr

    for no_duration in ("soon", "0"):
        assert run("consumer", "purge", TARGET, "--older-than", no_duration).returncode == 2


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_relay_without_a_secret_for_ordering_keys_does_not_start(run, tmp_path, verb):
    run("relay", "migrate")
    run("relay", "topology")
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.execute("DELETE FROM ordering_secret")
        database.commit()

    done = run("relay", verb, MQ_METRICS_PORT="0")

    assert done.returncode == 2
    assert "ordering_secret: there must be one row" in done.stdout + done.stderr


def test_the_database_file_is_for_its_owner_alone(run, tmp_path):
    run("relay", "migrate")

    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.db")} == {0o600}


def test_an_unknown_revision_is_a_line_and_status_2(run):
    done = run("relay", "migrate", "9999")

    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["error: REVISION: there is no such revision"],
    )


def test_alembic_upgrades_from_a_checkout(run, tmp_path):
    alembic = run(
        "alembic",
        "-c",
        str(REPOSITORY / "alembic.ini"),
        "upgrade",
        "head",
    )

    assert alembic.returncode == 0, alembic.stderr
    assert (tmp_path / "outbox.db").exists()
    assert run("relay", "topology").returncode == 0
    assert run("relay", "check").returncode == 0


@pytest.mark.parametrize(
    "verb", [["relay", "run"], ["relay", "status"], ["consumer", "run", TARGET]]
)
def test_bad_settings_are_a_line_each_and_status_2(run, verb):
    done = run(
        *verb,
        MQ_METRICS_PORT="70000",
        MQ_DATABASE_URL=f"postgresql://u:{SECRET}@db.example/x",
        MQ_LOG_LEVEL="loud",
    )

    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: MQ_") for line in lines)
    assert {line.split()[1] for line in lines} >= {"MQ_METRICS_PORT:", "MQ_LOG_LEVEL:"}
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    "verb",
    [["relay", "check"], ["relay", "migrate"], ["relay", "run"], ["consumer", "run", TARGET]],
)
def test_an_unreachable_server_at_start_is_status_3(run, verb):
    url = f"postgresql://u:{SECRET}@127.0.0.1:{free_ports(1)[0]}/x"

    done = run(*verb, MQ_DATABASE_URL=url, MQ_METRICS_PORT="0")

    assert done.returncode == 3
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_broker_at_start_is_status_3(run):
    run("relay", "migrate")

    done = run("relay", "run", MQ_BROKER_URL=f"amqp://u:{SECRET}@127.0.0.1:{free_ports(1)[0]}/")

    assert done.returncode == 3
    assert SECRET not in done.stdout + done.stderr


def test_a_database_that_refuses_the_password_is_a_line_and_status_2(run, postgres_url):
    url = make_url(postgres_url).set(password=SECRET).render_as_string(hide_password=False)

    for verb in (["relay", "run"], ["relay", "check"], ["consumer", "run", TARGET]):
        done = run(*verb, MQ_DATABASE_URL=url, MQ_METRICS_PORT="0")

        assert done.returncode == 2
        assert "the server refuses user, password or database (28P01)" in done.stderr
        assert SECRET not in done.stderr


@pytest.fixture
def without_rights(postgres_url, empty_postgres_url):
    """Turn the URL of a test's database into one of a user who may connect, and nothing else."""
    role = "role_of_the_command_lines"

    def execute(*statements: str) -> None:
        async def executed() -> None:
            engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
            await engine.dispose()

        asyncio.run(executed())

    def with_role(url: str) -> str:
        changed = make_url(url).set(username=role, password=SECRET)
        return changed.render_as_string(hide_password=False)

    create = f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'"
    execute(f"DROP ROLE IF EXISTS {role}", create)
    execute(f"GRANT SELECT ON {migrate.VERSION_TABLE} TO {role}")
    yield with_role(postgres_url), with_role(empty_postgres_url)
    execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_right_that_a_command_lacks_is_a_line_and_status_2(run, without_rights):
    migrated, empty = without_rights
    problems = {
        ("relay", "migrate"): (empty, "no privilege: GRANT CREATE ON the schema"),
        ("relay", "status"): (migrated, "no privilege: GRANT SELECT ON outbox"),
        ("consumer", "status", TARGET): (
            migrated,
            "no privilege: GRANT SELECT ON processed_messages",
        ),
    }

    for verb, (url, problem) in problems.items():
        done = run(*verb, MQ_DATABASE_URL=url)

        assert (done.returncode, done.stderr[: len(problem) + 7]) == (2, f"error: {problem}")


def test_wrong_credentials_at_start_are_status_3_and_not_shown(run, rabbitmq_url):
    run("relay", "migrate")
    url = str(URL(rabbitmq_url).with_password(SECRET))

    done = run("relay", "run", MQ_BROKER_URL=url)

    assert done.returncode == 3
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("no-colon", "a colon is missing"),
        ("no.such.module:etl", "there is no module no"),
        ("outbox:metadata", "outbox:metadata is not a Consumer"),
        ("outbox:nothing", "outbox:nothing is not a Consumer"),
    ],
)
def test_a_consumer_that_cannot_be_loaded_is_a_line_and_status_2(run, target, problem):
    done = run("consumer", "run", target)

    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_metrics_port_is_a_line_and_status_2(run):
    run("relay", "migrate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("relay", "run", MQ_METRICS_PORT=str(port))

    assert done.returncode == 2
    assert f"MQ_METRICS_PORT: port {port} is taken" in done.stderr


@pytest.mark.parametrize("command", ["relay", "consumer"])
def test_help_names_the_verbs_and_the_exit_codes(run, command):
    done = run(command, "--help")

    assert done.returncode == 0
    for word in ("run", "topology", "check", "status", "drain deadline passed"):
        assert word in " ".join(done.stdout.split())
