"""
What a service imports, and how `run` starts without the other commands.
"""

import os
import subprocess
import sys

import pytest

import outbox_relay
from outbox.cli.output import INTERRUPTED, run_command
from tests.support.processes import REPOSITORY

UNREACHABLE = 3
FOR_OTHER_COMMANDS = {
    "alembic",
    "pygments",
    "rich.console",
    "rich.pretty",
    "typer",
    "outbox.cli.console",
    "outbox.cli.dead_letters",
    "outbox.dead_letters.replay",
    "outbox.transports.sqlite",
    "relay.cli",
    "relay.replay",
    "consumer.cli",
    "consumer.replay",
    "consumer.status",
}


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        (["relay", "run"], {*FOR_OTHER_COMMANDS, "consumer"}),
        (
            ["consumer", "run", "tests.benchmarks.consumers:default"],
            {*FOR_OTHER_COMMANDS, "relay"},
        ),
    ],
)
def test_a_service_imports_nothing_that_only_other_commands_need(command, needless):
    """It ends when it has imported all but the broker's client, as no server listens."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("MQ_")},
            "PYTHONPATH": str(REPOSITORY),
            "MQ_DATABASE_URL": "postgresql://app@127.0.0.1:1/none",
            "MQ_BROKER_URL": "amqp://127.0.0.1:1",
            "MQ_ALLOW_INSECURE": "true",
            "MQ_METRICS_PORT": "0",
            "MQ_LOG_FORMAT": "json",
        },
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == UNREACHABLE, ended.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip()
        for line in ended.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert f"{command[0]}.assembly" in imported
    assert imported & needless == set()


def test_the_collector_rests_during_the_imports_and_never_looks_at_what_they_made(tmp_path):
    (tmp_path / "imported.py").write_text("import gc\nwas_collecting = gc.isenabled()\n")
    program = """
import gc, outbox_relay
module = outbox_relay._imported("imported")
print(module.was_collecting, gc.isenabled(), gc.get_freeze_count() > 0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("arguments", "of_relay", "of_consumer"),
    [
        ([], "cli", "cli"),
        (["run"], "run", "cli"),
        (["run", "app:etl"], "cli", "run"),
        (["run", "--help"], "cli", "cli"),
        (["run", "-h"], "cli", "cli"),
        (["run", "app:etl", "more"], "cli", "cli"),
        (["--help", "run"], "cli", "cli"),
        (["check"], "cli", "cli"),
        (["check", "app:etl"], "cli", "cli"),
    ],
)
def test_only_a_plain_run_passes_the_command_line_by(
    monkeypatch, arguments, of_relay, of_consumer
):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    assert outbox_relay._module("relay", arguments=0) == f"relay.{of_relay}"
    assert outbox_relay._module("consumer", arguments=1) == f"consumer.{of_consumer}"


def test_an_interrupt_during_the_imports_ends_a_command_quietly(monkeypatch, capsys):
    def interrupted(_module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox_relay, "_imported", interrupted)
    with pytest.raises(SystemExit) as ended:
        outbox_relay.relay()
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == ""


def test_an_interrupt_before_the_signals_are_handled_ends_a_command_quietly(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupted)
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == ""
