"""
The commands `relay dead` and `consumer dead`.
"""

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.tables import processed_messages
from outbox.database.engine import create_engine
from outbox.dead_letters.replay import BATCH
from outbox.dead_letters.source import reading
from outbox.tables import dead_letters, outbox
from outbox.transports.sqlite.transport import SqliteTransport
from tests.support.builders import LEAK_MARKER
from tests.support.commands import CommandLine, Ended
from tests.support.dead_letters import (
    QUEUE,
    a_dead_letter,
    a_dead_letter_of_the_relay,
    audit_rows,
    audited,
    remaining,
    write_dead_letter,
    write_dead_letters,
)
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY, ChildProcess
from tests.support.servers.ports import free_ports

TARGET = "tests.support.effects:consumer"
BECAUSE = ("--because", "the handler is fixed")
CONSUMER = ("consumer", "dead")
RELAY = ("relay", "dead")
MANY = 5_000


class Shell(CommandLine):
    """Runs the commands for dead letters of consumers and of the relay."""

    async def consumer(self, verb: str, *rest: str) -> Ended:
        return await self.run(*CONSUMER, verb, TARGET, *rest)

    async def relay(self, verb: str, *rest: str) -> Ended:
        return await self.run(*RELAY, verb, *rest)

    async def writing_to(self, stdout: int, *command: str) -> tuple[int, str]:
        """The exit status of a command whose standard output is *stdout*, and its errors."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            cwd=self.directory,
            env=self.settings,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, errors.decode()


class CommandedDeployment:
    """A deployment, and a shell for its commands."""

    def __init__(self, deployment: Deployment, shell: Shell) -> None:
        self.deployment = deployment
        self.shell = shell
        self.engine = deployment.engine


@pytest.fixture(params=["sqlite", "servers"])
def settings(request) -> dict[str, str]:
    """No settings, which means SQLite files, or Postgres and RabbitMQ."""
    if request.param == "sqlite":
        return {}
    return {
        "MQ_DATABASE_URL": request.getfixturevalue("postgres_url"),
        "MQ_BROKER_URL": request.getfixturevalue("rabbitmq_url"),
    }


@pytest.fixture
async def replays(settings, tmp_path):
    shell = Shell(tmp_path, MQ_RETRY_DELAYS="[0.2]", **settings)
    if not settings:
        assert (await shell.run("relay", "migrate"))[0] == 0
    logs = tmp_path / "logs"
    logs.mkdir()
    files = (f"sqlite:///{tmp_path / name}" for name in ("outbox.db", "broker.db"))
    async with Deployment(*(settings.values() or files), logs) as deployment:
        assert (await shell.run("consumer", "topology", TARGET))[0] == 0
        yield CommandedDeployment(deployment, shell)


@pytest.fixture
def shell(sqlite_url, tmp_path) -> Shell:
    assert sqlite_url.endswith(f"{tmp_path / 'outbox.db'}")
    return Shell(tmp_path)


@pytest.fixture
async def engine(sqlite_url):
    engine = create_engine(make_url(sqlite_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


async def test_dead_letters_of_a_consumer_are_repaired_replayed_and_applied(replays, tmp_path):
    shell, engine = replays.shell, replays.engine
    broken, fine = await write_dead_letter(
        engine,
        first := a_dead_letter(body=b"{broken"),
        second := a_dead_letter(reason="no_handler"),
    )
    (tmp_path / "body.json").write_text('{"number": 2}')

    code, listing, _ = await shell.consumer("list")
    assert code == 0
    assert all(word in listing for word in (first["message_id"], "no_handler", "2 of 2"))
    code, dry, _ = await shell.consumer("replay", "--all", "--dry-run")
    assert (code, "2 selected, nothing changed" in dry) == (0, True)
    assert await audited(engine) == []
    code, said, _ = await shell.consumer(
        "replay", str(broken), "--body", "body.json", "--by", "night shift", *BECAUSE
    )
    assert (code, said.strip()) == (0, "replayed 1 of 1")
    code, said, _ = await shell.consumer("replay", "--reason", "no_handler", *BECAUSE)
    assert (code, said.strip()) == (0, "replayed 1 of 1")

    await replays.deployment.consumer()
    await replays.deployment.applies(2)
    assert {str(id_) for id_ in await replays.deployment.applied()} == {
        first["message_id"],
        second["message_id"],
    }
    assert await remaining(engine) == []
    rows = await audit_rows(engine)
    assert [(row["action"], row["messages"]) for row in rows] == [
        ("replay_started", 0),
        ("repair", 1),
        ("replay", 1),
        ("replay_started", 0),
        ("replay", 1),
    ]
    assert {row["actor"] for row in rows[:3]} == {"night shift"}
    assert rows[0]["selection"] == {"id": [broken]}
    assert rows[3]["selection"] == {"reason": "no_handler"}
    assert {row["because"] for row in rows} == {BECAUSE[1]}
    assert len({row["run"] for row in rows}) == 2
    assert fine
    assert LEAK_MARKER not in shell.printed + replays.deployment.logs() + str(rows)


async def test_a_completed_message_is_applied_again_only_with_the_option_completed(replays):
    shell = replays.shell
    letter = a_dead_letter()
    await write_dead_letter(replays.engine, letter)
    await replays.deployment.consumer()
    await shell.consumer("replay", "--all", *BECAUSE)
    await replays.deployment.applies(1)

    await write_dead_letter(replays.engine, letter)
    _, dry, _ = await shell.consumer("replay", "--all", "--dry-run")
    _, said, _ = await shell.consumer("replay", "--all", *BECAUSE)
    await write_dead_letter(replays.engine, letter)
    _, again, _ = await shell.consumer("replay", "--all", "--completed", "--dry-run")
    await shell.consumer("replay", "--all", "--completed", *BECAUSE)

    await replays.deployment.applies(2)
    assert "1 are completed already and will be dropped as duplicates" in dry
    assert "1 are completed already and will be dropped as duplicates" in said
    assert "1 are completed already and will take effect once more" in again
    assert ("rerun", 1) in await audited(replays.engine)
    (done,) = await replays.deployment.rows(processed_messages)
    assert done["status"] == "completed"


async def test_dead_letters_of_the_relay_are_replayed_and_published(replays):
    shell = replays.shell
    letter = a_dead_letter_of_the_relay()
    malformed = a_dead_letter_of_the_relay(type=None)
    await write_dead_letter(replays.engine, letter, malformed)

    code, said, _ = await shell.relay("replay", "--all", *BECAUSE)
    assert (code, said.splitlines()) == (1, ["replayed 1 of 2", "1 left: malformed"])
    assert [row["event_id"] for row in await replays.deployment.rows(outbox)] == [
        UUID(letter["message_id"])
    ]
    await replays.deployment.relay()
    await replays.deployment.consumer()
    await replays.deployment.applies(1)

    code, said, _ = await shell.relay("drop", "--reason", "unroutable", *BECAUSE)
    assert (code, said.strip()) == (0, "dropped 1 of 1")
    assert await remaining(replays.engine) == []
    assert LEAK_MARKER not in shell.printed + replays.deployment.logs()


async def test_bodies_and_keys_are_shown_only_with_a_reason(shell, engine, tmp_path):
    letter = a_dead_letter(
        idempotency_key=f"idem-{LEAK_MARKER}",
        ordering_key=f"order-{LEAK_MARKER}",
        reason="malformed",
    )
    letter["headers"] |= {
        "source": "the-ward",
        "x-outbox-idempotency-key": f"idem-{LEAK_MARKER}",
        "user": LEAK_MARKER,
    }
    (id_,) = await write_dead_letter(engine, letter)

    for verb in (["list"], ["show", str(id_)], ["export", "-"], ["export", "letters.ndjson"]):
        code, *said = await shell.consumer(*verb)
        assert code == 0
        assert LEAK_MARKER not in "".join(said)
    written = (tmp_path / "letters.ndjson").read_text()
    assert LEAK_MARKER not in written
    assert json.loads(written)["headers"]["source"] == "the-ward"
    assert await audited(engine) == []

    for verb in (["show", str(id_), "--body"], ["export", "-", "--bodies"]):
        code, out, err = await shell.consumer(*verb)
        assert (code, out) == (2, "")
        assert err.startswith("error: --because: is needed")
    assert await audited(engine) == []

    code, shown, _ = await shell.consumer("show", str(id_), "--body", *BECAUSE)
    assert code == 0
    for secret in (f"idem-{LEAK_MARKER}", f"order-{LEAK_MARKER}", f'{{"note":"{LEAK_MARKER}"}}'):
        assert secret in shown
    code, exported, _ = await shell.consumer("export", "-", "--bodies", *BECAUSE)
    assert code == 0
    assert json.loads(exported)["body"] == f'{{"note":"{LEAK_MARKER}"}}'
    assert await audited(engine) == [("show_body", 1), ("export_bodies", 1)]
    assert LEAK_MARKER not in str(await audit_rows(engine))


async def test_an_export_is_a_new_file_for_its_owner_alone(shell, engine, tmp_path):
    await write_dead_letter(
        engine, a_dead_letter(body=b"\xff\x00"), a_dead_letter(body=b'{"a": NaN}')
    )
    (tmp_path / "taken").write_text("mine")

    code, _, said = await shell.consumer("export", "new", "--bodies", *BECAUSE)
    taken, _, problem = await shell.consumer("export", "taken")
    nowhere, _, where = await shell.consumer("export", "no/such/directory")

    first, second = map(json.loads, (tmp_path / "new").read_text().splitlines())
    assert (code, said.strip()) == (0, "exported 2 of 2")
    assert (first["body_base64"], second["body_base64"]) == ("/wA=", "eyJhIjogTmFOfQ==")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    assert (taken, problem.strip()) == (2, "error: FILE: exists already")
    assert (tmp_path / "taken").read_text() == "mine"
    assert (nowhere, where.strip()) == (2, "error: FILE: cannot be created (FileNotFoundError)")


async def test_an_export_to_a_closed_pipe_ends_without_a_traceback(shell, engine):
    await write_dead_letters(engine, 300)
    reader, writer = os.pipe()
    os.close(reader)

    try:
        code, problem = await shell.writing_to(writer, *CONSUMER, "export", TARGET, "-")
    finally:
        os.close(writer)

    assert code == 1
    assert "Traceback" not in problem
    assert "FILE: cannot be written" in problem


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["replay"], "--all: is needed when no filter is given"),
        (["drop", "--all", "--id", "1"], "--all: cannot be given together with --id"),
        (["drop", "--all"], "--because: is needed: give the reason, which is stored"),
        (["list", "--limit", "-5"], "--limit: must be a whole number from 1 on"),
        (["show", LEAK_MARKER], "--id: must be a whole number from 1 on"),
        (
            ["replay", "--id", "1; DROP TABLE dead_letters", *BECAUSE],
            "--id: must be a whole number from 1 on",
        ),
        (["list", "--older-than", LEAK_MARKER], "--older-than: must be a duration"),
        (["drop", "99", *BECAUSE], "--id: there is no dead letter 99 of effects"),
        (["replay", "1", "--body", "bad", *BECAUSE], "--body: is not JSON in UTF-8"),
    ],
)
async def test_a_bad_option_is_a_line_that_names_it_and_changes_nothing(
    shell, engine, tmp_path, arguments, problem
):
    await write_dead_letter(engine, a_dead_letter())
    (tmp_path / "bad").write_text(f'{{"{LEAK_MARKER}')

    code, out, err = await shell.consumer(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith(f"error: {problem}")
    assert err.count("\n") == 1
    assert LEAK_MARKER not in err
    assert await audited(engine) == []
    assert len(await remaining(engine)) == 1


async def test_the_key_is_neither_printed_nor_stored(shell, engine):
    key = f"user-{LEAK_MARKER}"
    await write_dead_letter(engine, a_dead_letter(ordering_key=key), a_dead_letter())

    code, *said = await shell.consumer("drop", "--key", key, "--limit", "5", *BECAUSE)

    assert (code, said[0].strip()) == (0, "dropped 1 of 1")
    (row,) = await audit_rows(engine)
    assert row["selection"] == {"key": True, "limit": 5}
    assert LEAK_MARKER not in "".join(said) + str(row)


@pytest.mark.parametrize("verb", ["list", "export", "replay"])
async def test_a_database_that_cannot_be_reached_is_status_3(tmp_path, verb):
    url = f"postgresql://u:p@127.0.0.1:{free_ports(1)[0]}/x"
    rest = {"list": [], "export": ["-"], "replay": ["--all", *BECAUSE]}[verb]

    code, _, err = await Shell(tmp_path, MQ_DATABASE_URL=url).consumer(verb, *rest)

    assert code == 3
    assert err.startswith("error: ")
    assert "Traceback" not in err


async def test_a_broker_that_cannot_be_reached_is_status_3_and_changes_nothing(
    shell, engine, tmp_path
):
    await write_dead_letter(engine, a_dead_letter())
    unreachable = Shell(tmp_path, MQ_BROKER_URL=f"amqp://u:p@127.0.0.1:{free_ports(1)[0]}/")

    code, _, err = await unreachable.consumer("replay", "--all", *BECAUSE)

    assert (code, "Traceback" in err) == (3, False)
    assert len(await remaining(engine)) == 1
    assert await audited(engine) == []


async def test_a_type_cannot_steer_the_terminal(shell, engine):
    (id_,) = await write_dead_letter(engine, a_dead_letter(type="[red]a\x1b[2J"))

    _, listing, _ = await shell.consumer("list")
    _, shown, _ = await shell.consumer("show", str(id_))

    for said in (listing, shown):
        assert "[red]a\\u001b[2J" in said
        assert "\x1b[2J" not in said


async def test_progress_is_shown_on_a_terminal_and_nowhere_else(shell, engine):
    await write_dead_letters(engine, 300)
    primary, secondary = pty.openpty()

    piped = await shell.consumer("drop", "--limit", "150", *BECAUSE)
    drop = (*CONSUMER, "drop", TARGET, "--all", *BECAUSE)
    shell_code, _ = await shell.writing_to(secondary, *drop)
    os.close(secondary)
    on_terminal = os.read(primary, 65_536).decode()
    os.close(primary)

    assert (shell_code, piped[1].strip()) == (0, "dropped 150 of 150")
    assert "100%" in on_terminal


async def started_replay(shell: Shell, engine: AsyncEngine, tmp_path: Path) -> ChildProcess:
    """A replay of many dead letters that has sent some of them."""
    assert (await shell.run("consumer", "topology", TARGET))[0] == 0
    await write_dead_letters(engine, MANY)
    child = ChildProcess(
        [sys.executable, "-m", *CONSUMER, "replay", TARGET, "--all", *BECAUSE],
        log=tmp_path / "replay.log",
        env={"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
    )
    child.start()

    async def some_are_gone() -> bool:
        return await count(engine) < MANY

    await eventually(some_are_gone, within=30)
    return child


async def count(engine: AsyncEngine) -> int:
    async with reading(engine) as connection:
        statement = sa.select(sa.func.count()).select_from(dead_letters)
        return (await connection.execute(statement)).scalar_one()


async def test_an_interrupted_replay_finishes_its_batch_and_says_how_many_it_sent(
    shell, engine, tmp_path, embedded_broker_url
):
    child = await started_replay(shell, engine, tmp_path)

    code = await child.terminate(by=signal.SIGINT)

    done = MANY - await count(engine)
    assert code == 1
    assert child.output.splitlines() == [
        f"replayed {done:,} of {MANY:,}",
        "interrupted: the other dead letters are unchanged",
    ]
    assert done < MANY
    assert sum(messages for _, messages in await audited(engine)) == done
    assert await depth(embedded_broker_url) == done


async def test_a_command_that_only_reads_ends_at_the_first_signal(shell, engine, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        child = ChildProcess(
            [sys.executable, "-m", *RELAY, "list"],
            log=tmp_path / "list.log",
            env={"PYTHONPATH": str(REPOSITORY), "MQ_DATABASE_URL": url},
            cwd=tmp_path,
        )
        async with child:
            with (await asyncio.to_thread(silent.accept))[0]:
                code = await child.terminate(by=signal.SIGINT, within=5)

    assert (code, child.output) == (1, "")


async def test_a_killed_replay_loses_nothing_and_sends_at_most_one_batch_again(
    shell, engine, tmp_path, embedded_broker_url
):
    child = await started_replay(shell, engine, tmp_path)
    child.kill()
    done = MANY - await count(engine)

    code, *_ = await shell.consumer("replay", "--all", *BECAUSE)

    assert code == 0
    assert await count(engine) == 0
    assert 0 < done < MANY
    assert MANY <= await depth(embedded_broker_url) <= MANY + BATCH
    assert sum(messages for _, messages in await audited(engine)) == MANY


async def depth(embedded_broker_url: str) -> int:
    found = await SqliteTransport(Path(embedded_broker_url.removeprefix("sqlite:///"))).depth(
        QUEUE
    )
    assert found is not None
    return found.messages


async def test_a_role_needs_no_more_rights_than_the_documentation_grants(
    postgres_url, rabbitmq_url, tmp_path
):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    role = "operator_of_test"
    grants = documented_grants(role)
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"DROP ROLE IF EXISTS {role}"))
        await connection.execute(sa.text(f"CREATE ROLE {role} LOGIN PASSWORD 'p'"))
    url = make_url(postgres_url).set(username=role, password="p")
    shell = Shell(
        tmp_path,
        MQ_DATABASE_URL=url.render_as_string(hide_password=False),
        MQ_BROKER_URL=rabbitmq_url,
    )
    try:
        assert (await shell.run("consumer", "topology", TARGET))[0] == 0
        await write_dead_letter(engine, a_dead_letter(), a_dead_letter_of_the_relay())
        async with engine.begin() as connection:
            for grant in grants[:-1]:
                await connection.execute(sa.text(grant))
        refused, _, problem = await shell.consumer("replay", "--all", *BECAUSE)
        async with engine.begin() as connection:
            await connection.execute(sa.text(grants[-1]))
        allowed = [
            await shell.consumer("show", "1", "--body", *BECAUSE),
            await shell.consumer("replay", "--all", "--completed", *BECAUSE),
            await shell.relay("replay", "--all", *BECAUSE),
        ]
    finally:
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"DROP OWNED BY {role}"))
            await connection.execute(sa.text(f"DROP ROLE {role}"))
        await engine.dispose()

    assert (refused, problem.strip()) == (
        2,
        "error: the database user lacks a privilege: see Dead letters in docs/how-to/run.md",
    )
    assert [code for code, *_ in allowed] == [0, 0, 0]


def documented_grants(role: str) -> list[str]:
    """The grants that the documentation gives an operator; the one on audit_log is last."""
    lines = (REPOSITORY / "docs" / "how-to" / "run.md").read_text().splitlines()
    granted = [line.partition(";")[0] for line in lines if " to operator;" in line]
    return sorted(
        (grant.replace("to operator", f"to {role}") for grant in granted),
        key=lambda grant: "audit_log" in grant,
    )
