"""
What `check` and `status` look at: all problems at once, and no file that they leave behind.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.support.commands import CommandLine
from tests.support.processes import REPOSITORY
from tests.support.servers.ports import free_ports

SECRET = "hunter2-of-the-test"
TARGET = "tests.support.effects:consumer"


def errors_of(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
def test_a_check_lists_every_missing_exchange_and_queue(request, tmp_path, sqlite_url, broker):
    url = (
        "sqlite:///broker.db" if broker == "embedded" else request.getfixturevalue("rabbitmq_url")
    )
    run = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_BROKER_URL=url)

    of_relay = errors_of(run("relay", "check").err)
    of_consumer = errors_of(run("consumer", "check", TARGET).err)

    prefix = "error: queue health_data_processing.effects"
    assert of_relay == [
        "error: exchange health_data_exchange does not exist",
        "error: exchange health_data_dlx does not exist",
    ]
    assert of_consumer[:2] == of_relay
    # The embedded broker lists its bindings, and RabbitMQ only by its management API.
    unbound = {line for line in of_consumer if " is not bound to exchange " in line}
    assert bool(unbound) == (broker == "embedded")
    assert set(of_consumer[2:]) - unbound == {
        f"{prefix}{rest} does not exist"
        for rest in ("", ".dead", ".retry.30s", ".retry.300s", ".retry.900s")
    }


def test_a_check_goes_on_after_each_problem_and_exits_like_the_first(tmp_path, rabbitmq_url):
    (port,) = free_ports(1)
    run = CommandLine(
        tmp_path,
        MQ_BROKER_URL=rabbitmq_url,
        MQ_ALLOWED_HEADERS="X-Secret",
        MQ_METRICS_HOST="192.0.2.1",
        MQ_DEDUPLICATION_RETENTION_HOURS="1",
    )
    unreachable = f"postgresql://u:{SECRET}@127.0.0.1:{port}/x"

    of_consumer = run("consumer", "check", TARGET, MQ_DATABASE_URL=unreachable)
    of_relay = run(
        "relay",
        "check",
        MQ_DATABASE_URL=unreachable,
        MQ_ALLOWED_HEADERS="",
        MQ_METRICS_HOST="127.0.0.1",
    )

    beginnings = [
        "MQ_DEDUPLICATION_RETENTION_HOURS: must be ",
        "MQ_ALLOWED_HEADERS: ",
        "MQ_METRICS_HOST: cannot listen on this address",
        f"MQ_DATABASE_URL: cannot connect to 127.0.0.1:{port}: connection refused",
        "exchange health_data_exchange does not exist",
    ]
    found = errors_of(of_consumer.err)
    assert [line[7 : 7 + len(start)] for line, start in zip(found, beginnings, strict=False)] == (
        beginnings
    )
    assert (of_consumer.code, of_relay.code) == (2, 3)
    assert len(errors_of(of_relay.err)) == 3
    assert SECRET not in run.printed


def test_a_header_name_that_cannot_be_allowed_is_a_line_at_start(tmp_path, sqlite_url):
    run = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_ALLOWED_HEADERS="X-Secret")

    for command in (("relay", "run"), ("consumer", "run", TARGET)):
        done = run(*command, MQ_METRICS_PORT="0")

        assert done.code == 2
        assert "MQ_ALLOWED_HEADERS: " in done.err


@pytest.mark.parametrize(
    "command",
    [
        ("relay", "check"),
        ("relay", "status"),
        ("relay", "run"),
        ("relay", "dead", "list"),
        ("consumer", "check", TARGET),
        ("consumer", "status", TARGET),
        ("consumer", "purge", TARGET),
        ("consumer", "dead", "list", TARGET),
    ],
    ids=" ".join,
)
def test_a_command_in_an_empty_directory_creates_no_file(tmp_path, command):
    done = CommandLine(tmp_path, MQ_METRICS_PORT="0")(*command)

    assert done.code == 2
    assert f"there is no file {tmp_path / 'outbox.db'}: run `relay migrate`" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_status_creates_no_file_of_the_broker(tmp_path, sqlite_url):
    run = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url)

    assert run("relay", "status").code == 0
    assert "health_data_processing.effects" in run("consumer", "status", TARGET).out
    assert not (tmp_path / "broker.db").exists()


def run_in(folder: Path, *command: str, path: str = "") -> tuple[int, str]:
    """Run a console script, or a module, with *path* as the only PYTHONPATH."""
    ended = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stderr


A_CONSUMER = """
from consumer import Consumer
etl = Consumer("etl", bindings=["#"])
"""


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("consumer.py", "consumer:etl"),
        ("consumer/etl.py", "consumer.etl:etl"),
        ("outbox.py", "app:etl"),
    ],
)
def test_a_module_of_the_user_that_our_package_hides_is_named(tmp_path, file, target):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(A_CONSUMER)
    (tmp_path / "app.py").write_text("from outbox import upload_table\n" + A_CONSUMER)

    code, printed = run_in(tmp_path, "consumer", "check", target)

    hidden = tmp_path / Path(file).parts[0]
    assert code == 2
    (line,) = errors_of(printed)
    assert line == (
        f"error: MODULE:NAME: {hidden} is hidden by the package of the same name of this program: "
        "rename it"
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("outbox", ("relay", "check")),
        ("relay", ("relay", "check")),
        ("outbox", ("consumer", "check", "app:etl")),
        ("consumer", ("consumer", "check", "app:etl")),
    ],
)
def test_a_module_of_the_user_that_hides_our_package_is_named(tmp_path, name, command):
    (tmp_path / f"{name}.py").write_text("")

    code, printed = run_in(tmp_path, *command, path=f"{tmp_path}:{REPOSITORY}")

    hides = f"hides the package {name} of outbox-relay: rename it, or take its folder out of "
    assert (code, errors_of(printed)) == (
        2,
        [f"error: {tmp_path / name}.py {hides}PYTHONPATH"],
    )
    assert "Traceback" not in printed


def test_a_module_beside_python_dash_m_that_hides_our_package_is_named(tmp_path):
    (tmp_path / "outbox.py").write_text("")

    line = f"{tmp_path}/outbox.py hides the package outbox of outbox-relay: rename it"
    for command in (["-m", "relay", "check"], ["-mconsumer", "check", "app:etl"]):
        code, printed = run_in(tmp_path, "python", *command)
        assert code == 2
        (found,) = printed.splitlines()
        assert found.startswith(f"error: {line}")

    (tmp_path / "app.py").write_text(A_CONSUMER)
    code, traceback = run_in(tmp_path, "python", "-m", "app")
    assert code == 1
    assert line in traceback.splitlines()[-1]


def test_commands_work_beside_modules_with_the_names_of_ours(tmp_path):
    for name in ("outbox", "relay", "consumer", "outbox_demo"):
        (tmp_path / f"{name}.py").write_text("")
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "app.py").write_text(
        A_CONSUMER + '@etl.on("a.b")\nasync def load(message, session): ...\n'
    )

    for command in (
        ("relay", "migrate"),
        ("consumer", "topology", "app:etl"),
        ("consumer", "check", "app:etl"),
    ):
        code, printed = run_in(tmp_path, *command)
        assert (code, errors_of(printed)) == (0, []), command


def test_a_demo_beside_modules_with_the_names_of_ours_runs_or_names_them(tmp_path):
    names = ("outbox", "relay", "consumer")
    for name in names:
        (tmp_path / f"{name}.py").write_text("")

    assert run_in(tmp_path, "relay", "demo", "--help") == (0, "")

    code, printed = run_in(tmp_path, "python", "-m", "outbox_demo", "--help")
    assert code == 2
    for name, line in zip(names, printed.splitlines(), strict=True):
        assert line.startswith(f"error: {tmp_path}/{name}.py hides the package {name} of ")


def test_the_file_of_a_misspelt_folder_is_named(tmp_path):
    url = make_url(f"sqlite:///{tmp_path}/nowhere/outbox.db")

    done = CommandLine(tmp_path)("relay", "check", MQ_DATABASE_URL=str(url))

    assert done.code == 2
    assert f"there is no file {tmp_path}/nowhere/outbox.db: run" in done.err
