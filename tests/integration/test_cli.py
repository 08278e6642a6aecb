"""
The command lines: their output and their exit codes.
"""

import asyncio
import os
import re
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from yarl import URL

import outbox
import outbox_relay
from outbox.database import migrate
from outbox.database.engine import create_engine
from tests.support.commands import CommandLine
from tests.support.processes import REPOSITORY
from tests.support.servers.ports import free_ports

SECRET = "hunter2-of-the-test"
TARGET = "tests.support.effects:consumer"


@pytest.fixture
def run(tmp_path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def migrated(sqlite_url, tmp_path) -> None:
    """Leave the tables in the file that commands use without any setting."""
    assert sqlite_url.endswith(f"{tmp_path / 'outbox.db'}")


def test_commands_set_up_an_empty_directory_with_files_of_their_owner(run, tmp_path):
    before = run("relay", "check")
    assert before.code == 2
    no_file = f"the tables are missing, because there is no file {tmp_path / 'outbox.db'}"
    assert [line for line in before.err.splitlines() if line.startswith("error: ")] == [
        f"error: {no_file}: run `relay migrate`",
        "error: exchange health_data_exchange does not exist",
        "error: exchange health_data_dlx does not exist",
    ]
    assert list(tmp_path.iterdir()) == []

    assert run("relay", "migrate").code == 0
    assert run("relay", "check").code == 2
    assert "exchange health_data_exchange (topic)" in run("relay", "topology").out
    assert run("relay", "check").code == 0
    assert run("consumer", "check", TARGET).code == 2
    assert "queue health_data_processing.effects.dead" in run("consumer", "topology", TARGET).out
    assert run("consumer", "check", TARGET).code == 0
    assert "health_data_processing.effects.retry.30s" in run("consumer", "status", TARGET).out
    assert "rows" in run("relay", "status").out
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*.db")}
    assert files == {"outbox.db": 0o600, "broker.db": 0o600}


NOT_DECLARED = {"MQ_DECLARE_TOPOLOGY": "false"}


@pytest.mark.parametrize(
    ("verb", "setting", "argument"),
    [
        ("check", {"MQ_MESSAGE_TTL_SECONDS": "3600"}, "x-message-ttl"),
        ("run", {"MQ_DELIVERY_METHOD": "callback"}, "x-delivery-limit"),
        ("run", {"MQ_MESSAGE_TTL_SECONDS": "3600", **NOT_DECLARED}, "x-message-ttl"),
    ],
)
@pytest.mark.usefixtures("migrated")
def test_a_setting_that_the_queue_does_not_have_is_a_line_and_status_2(
    run, rabbitmq_url, verb, setting, argument
):
    broker = {"MQ_BROKER_URL": rabbitmq_url}
    run("consumer", "topology", TARGET, **broker)

    done = run("consumer", verb, TARGET, MQ_METRICS_PORT="0", **broker, **setting)

    assert done.code == 2
    [line] = [line for line in (done.out + done.err).splitlines() if "another" in line]
    assert f"queue health_data_processing.effects exists with another {argument}" in line


@pytest.mark.usefixtures("migrated")
def test_a_check_warns_of_queues_that_it_cannot_compare(run, rabbitmq_url, rabbitmq_reader_url):
    run("consumer", "topology", TARGET, MQ_BROKER_URL=rabbitmq_url)

    done = run("consumer", "check", TARGET, MQ_BROKER_URL=rabbitmq_reader_url, **NOT_DECLARED)

    assert done.code == 0, done.err
    assert "warning: queue health_data_processing.effects: exists, but" in done.err

    # A start would declare them, and end.
    for verb in ("check", "run"):
        done = run(
            "consumer", verb, TARGET, MQ_BROKER_URL=rabbitmq_reader_url, MQ_METRICS_PORT="0"
        )
        assert done.code == 2
        assert "queue health_data_processing.effects: the broker's user " in done.err + done.out


def test_a_check_finds_settings_that_contradict_each_other(run):
    done = run("consumer", "check", TARGET, MQ_DEDUPLICATION_RETENTION_HOURS="24")

    assert done.code == 2
    line = next(line for line in done.err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: MQ_DEDUPLICATION_RETENTION_HOURS: must be at least ")


@pytest.mark.usefixtures("migrated")
def test_a_purge_deletes_older_rows_and_refuses_an_age_that_allows_duplicates(run, tmp_path):
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.executemany(
            "INSERT INTO processed_messages "
            "(consumer, idempotency_key, message_id, type, status, processed_at) VALUES "
            "('effects', ?, ?, 't', 'completed', strftime('%Y-%m-%d %H:%M:%f000', 'now', ?))",
            [(str(days), f"{days:032x}", f"-{days} days") for days in (1, 10, 31, 40)],
        )
        database.commit()

    refused = run("consumer", "purge", TARGET, "--older-than", "7d")
    assert refused.code == 2
    [line] = refused.err.splitlines()
    assert line.startswith("error: --older-than: must be at least 168.4 hours, ")

    by_retention = run("consumer", "purge", TARGET)
    assert (by_retention.code, by_retention.out) == (0, "2 rows purged\n")
    assert by_retention.err == ""

    below = run("consumer", "purge", TARGET, "--older-than", "8d")
    assert (below.code, below.out) == (0, "1 rows purged\n")
    assert "warning: --older-than: below MQ_DEDUPLICATION_RETENTION_HOURS" in below.err

    for no_duration in ("soon", "0"):
        assert run("consumer", "purge", TARGET, "--older-than", no_duration).code == 2


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.usefixtures("migrated")
def test_a_relay_without_a_secret_for_ordering_keys_does_not_start(run, tmp_path, verb):
    run("relay", "topology")
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database:
        database.execute("DELETE FROM ordering_secret")
        database.commit()

    done = run("relay", verb, MQ_METRICS_PORT="0")

    assert done.code == 2
    assert "ordering_secret: there must be one row" in done.out + done.err


def test_an_unknown_revision_is_a_line_and_status_2(run):
    done = run("relay", "migrate", "9999")

    assert (done.code, done.err.splitlines()[-1]) == (
        2,
        "error: REVISION: there is no such revision",
    )


def test_alembic_upgrades_from_a_checkout(run, tmp_path):
    alembic = run(
        "alembic",
        "-c",
        str(REPOSITORY / "alembic.ini"),
        "upgrade",
        "head",
    )

    assert alembic.code == 0, alembic.err
    assert (tmp_path / "outbox.db").exists()
    assert run("relay", "topology").code == 0
    assert run("relay", "check").code == 0


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

    assert done.code == 2
    lines = done.err.splitlines()
    assert all(line.startswith("error: MQ_") for line in lines)
    assert {line.split()[1] for line in lines} >= {"MQ_METRICS_PORT:", "MQ_LOG_LEVEL:"}
    assert SECRET not in done.err


@pytest.mark.parametrize(
    "verb",
    [["relay", "check"], ["relay", "migrate"], ["relay", "run"], ["consumer", "run", TARGET]],
)
def test_an_unreachable_server_at_start_is_status_3(run, verb):
    url = f"postgresql://u:{SECRET}@127.0.0.1:{free_ports(1)[0]}/x"

    done = run(*verb, MQ_DATABASE_URL=url, MQ_METRICS_PORT="0")

    assert done.code == 3
    assert SECRET not in done.out + done.err
    assert "Traceback" not in done.err


def test_a_database_that_refuses_the_password_is_a_line_and_status_2(run, postgres_url):
    url = make_url(postgres_url).set(password=SECRET).render_as_string(hide_password=False)

    for verb in (["relay", "run"], ["relay", "check"], ["consumer", "run", TARGET]):
        done = run(*verb, MQ_DATABASE_URL=url, MQ_METRICS_PORT="0")

        assert done.code == 2
        assert "the server refuses the password, or the user does not exist (28P01)" in done.err
        assert SECRET not in done.err


@pytest.fixture
def without_rights(postgres_url, empty_postgres_url):
    """The URLs of a user that may only connect to the databases."""
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
        ("relay", "migrate"): (
            empty,
            "the role may not create tables: GRANT CREATE ON the schema",
        ),
        ("relay", "status"): (migrated, "no privilege: GRANT SELECT ON outbox"),
        ("consumer", "status", TARGET): (
            migrated,
            "no privilege: GRANT SELECT ON processed_messages",
        ),
    }

    for verb, (url, problem) in problems.items():
        done = run(*verb, MQ_DATABASE_URL=url)

        assert (done.code, done.err[: len(problem) + 7]) == (2, f"error: {problem}")


@pytest.mark.usefixtures("migrated")
def test_a_broker_that_refuses_the_password_is_status_2_and_an_unreachable_one_3(
    run, rabbitmq_url
):
    url = URL(rabbitmq_url).with_password(SECRET)

    for broker, code in ((url, 2), (url.with_port(free_ports(1)[0]), 3)):
        done = run("relay", "run", MQ_BROKER_URL=str(broker))

        assert done.code == code
        assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("no-colon", "a colon is missing"),
        ("no.such.module:etl", "there is no module no"),
        ("outbox:metadata", "outbox:metadata is not a Consumer"),
        ("outbox:nothing", "outbox:nothing is not a Consumer"),
        ("../etl:etl", "the module must be words joined by dots"),
        (":etl", "the module must be words joined by dots"),
    ],
)
def test_a_consumer_that_cannot_be_loaded_is_a_line_and_status_2(run, target, problem):
    done = run("consumer", "run", target)

    assert done.code == 2
    assert problem in done.err
    assert "Traceback" not in done.err


def test_a_module_that_ends_the_process_is_no_consumer_that_works(run, tmp_path):
    (tmp_path / "ending.py").write_text("raise SystemExit(0)")

    done = run("consumer", "check", "ending:etl")

    assert done.code == 2
    assert "error: MODULE:NAME: ending ends the process when it is imported" in done.err


@pytest.mark.usefixtures("migrated")
def test_a_taken_metrics_port_is_a_line_and_status_2(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("relay", "run", MQ_METRICS_PORT=str(port))

    assert done.code == 2
    assert f"MQ_METRICS_PORT: port {port} is taken" in done.err


@pytest.mark.parametrize("name", ["relay", "consumer"])
def test_help_names_the_verbs_and_the_exit_codes(run, name):
    help_text = run(name, "--help").out

    for word in ("run", "topology", "check", "status", "drain deadline passed"):
        assert word in " ".join(help_text.split())


@pytest.mark.parametrize("name", ["relay", "consumer"])
def test_the_console_script_is_installed_and_runs_the_command(name):
    (script,) = metadata.entry_points(group="console_scripts", name=name)

    assert Path(sys.executable).with_name(name).exists()
    assert script.load() is getattr(outbox_relay, name)


@pytest.mark.parametrize("command", ["relay", "consumer"])
def test_a_command_prints_the_version_of_the_distribution(run, command):
    version = metadata.version("outbox-relay")

    assert run(command, "--version") == (0, f"outbox-relay {version}\n", "")
    assert outbox.__version__ == version


def test_bash_completes_a_command():
    script = """
    eval "$(relay --show-completion)"
    COMP_WORDS=(relay dead re) COMP_CWORD=2
    _relay_completion relay
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert (done.stdout, done.stderr) == ("replay\n", "")


def test_a_command_draws_without_colours_if_asked():
    def help_with(**variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "relay", "--help"],
            env={"PYTHONPATH": str(REPOSITORY), "FORCE_COLOR": "1", "TERM": "xterm", **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    colour = re.compile("\x1b\\[[0-9;]*3[0-9][;m]")
    assert colour.search(help_with())
    assert not colour.search(help_with(NO_COLOR="1"))
