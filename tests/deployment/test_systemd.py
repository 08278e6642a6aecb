"""
The units of deploy/systemd are what systemd, our settings and our exit codes say.
"""

import re
import subprocess

import pytest

from consumer.settings import ConsumerSettings
from outbox.runtime.service import ABORT_SECONDS, ExitCode
from relay.settings import RelaySettings
from tests.support.pages import REPOSITORY
from tests.support.programs import program

FOLDER = REPOSITORY / "deploy" / "systemd"
RUNNING = {"outbox-relay.service": RelaySettings, "outbox-consumer@.service": ConsumerSettings}
SERVICES = sorted(file.name for file in FOLDER.glob("*.service"))
STUBS = (
    *("basic.target", "sysinit.target", "shutdown.target", "network-online.target"),
    *("multi-user.target", "timers.target", "system.slice", "-.slice", "-.mount"),
)
HARDENED = re.compile(r"\n(# Nothing of the machine but .+?)(?:\n\n|\Z)", re.DOTALL)
MOST_EXPOSED = 15
"""In tenths. systemd 252 finds 12: the services need the network."""


def lines(name):
    """The lines of the unit *name* that are no comments."""
    text = (FOLDER / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def values(name, key):
    return [line.partition("=")[2] for line in lines(name) if line.startswith(f"{key}=")]


def systemd_analyze(*words):
    done = subprocess.run(
        [program("systemd-analyze", package="systemd"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path):
    """The root of a machine with our units and commands, and stubs of systemd's own units."""
    units, commands = tmp_path / "etc/systemd/system", tmp_path / "opt/outbox-relay/bin"
    for directory in (units, commands):
        directory.mkdir(parents=True)
    for stub in STUBS:
        what = "[Mount]\nWhat=none\nWhere=/\n" if stub.endswith(".mount") else ""
        (units / stub).write_text(f"[Unit]\nDescription=stub\n{what}")
    for file in FOLDER.iterdir():
        (units / file.name).write_text(file.read_text())
    for command in ("relay", "consumer"):
        (commands / command).write_text("#!/bin/sh\n")
        (commands / command).chmod(0o755)
    return tmp_path


def test_systemd_takes_every_unit(machine):
    units = [name.replace("@.", "@etl.") for name in (*SERVICES, "outbox-check.timer")]

    status, said = systemd_analyze("verify", "--man=no", f"--root={machine}", *units)

    assert (status, said) == (0, "")


def test_a_misspelt_line_is_found(machine):
    unit = machine / "etc/systemd/system/outbox-relay.service"
    unit.write_text(unit.read_text().replace("MemoryMax=", "MemoryMaximum="))

    _, said = systemd_analyze("verify", "--man=no", f"--root={machine}", unit.name)

    assert "'MemoryMaximum'" in said  # newer versions say it in other words


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_a_service_hardened(name, tmp_path):
    unit = tmp_path / name.replace("@.", "@etl.")
    unit.write_text((FOLDER / name).read_text())

    status, said = systemd_analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", str(unit)
    )

    assert status == 0, said


def test_all_services_are_hardened_alike():
    blocks = {HARDENED.search((FOLDER / name).read_text())[1].strip() for name in SERVICES}

    assert len(blocks) == 1


@pytest.mark.parametrize("name", RUNNING)
def test_a_process_is_started_again_but_not_with_a_bad_configuration(name):
    drain = RUNNING[name].model_fields["drain_seconds"].default

    assert values(name, "Restart") == ["on-failure"]
    assert values(name, "RestartPreventExitStatus") == [str(int(ExitCode.BAD_CONFIGURATION))]
    assert values(name, "SuccessExitStatus") == [str(int(ExitCode.DRAIN_DEADLINE))]
    assert values(name, "StartLimitIntervalSec") == ["0"]
    [stop] = values(name, "TimeoutStopSec")
    assert int(stop.removesuffix("s")) > drain


def test_a_consumer_has_one_process_unless_its_file_of_settings_asks_for_more():
    [command] = values("outbox-consumer@.service", "ExecStart")

    assert command.endswith("/consumer run ${CONSUMER} $RUN_OPTIONS")
    assert "RUN_OPTIONS=" in values("outbox-consumer@.service", "Environment")


def test_systemd_waits_until_a_supervisor_has_killed_processes_that_do_not_drain():
    drain = ConsumerSettings.model_fields["drain_seconds"].default
    [stop] = values("outbox-consumer@.service", "TimeoutStopSec")

    assert int(stop.removesuffix("s")) > drain + 2 * ABORT_SECONDS


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_credentials_in_the_directory_that_the_settings_read(name):
    assert "MQ_SECRETS_DIR=%d" in values(name, "Environment")
    for credential in values(name, "LoadCredential"):
        setting, _, file = credential.partition(":")
        assert setting in {"MQ_DATABASE_URL", "MQ_BROKER_URL"}
        assert file.startswith("/etc/outbox-relay/")
        assert file.endswith(f"/{setting}")
