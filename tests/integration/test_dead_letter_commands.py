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
import termios
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.tables import processed_messages
from outbox.cli.output import PIPE_CLOSED
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
from tests.support.processes import REPOSITORY, ChildProcess, PreparedProcess
from tests.support.roles import documented_rights
from tests.support.servers.ports import free_ports

TARGET = "tests.support.effects:consumer"
BECAUSE = ("--because", "the handler is fixed")
CONSUMER = ("consumer", "dead")
RELAY = ("relay", "dead")
MANY = 5_000
AUDIT = "GRANT INSERT ON audit_log"


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


async def test_commands_say_that_a_body_has_expired_and_go_on_with_the_others(shell, engine):
    at = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    expired, whole = await write_dead_letter(
        engine,
        a_dead_letter(body=b"", content_encoding="outbox-expired", body_expired_at=at),
        a_dead_letter(body=b"{}"),
    )
    said = "body expired at 2026-03-01T08:30+00:00"

    _, listed, _ = await shell.consumer("list")
    _, shown, _ = await shell.consumer("show", str(expired), "--body", *BECAUSE)
    _, exported, summary = await shell.consumer("export", "-", "--bodies", *BECAUSE)
    _, dry, _ = await shell.consumer("replay", "--all", "--dry-run")

    assert said in listed
    assert said in shown
    assert [json.loads(line)["body"] for line in exported.splitlines()] == [None, "{}"]
    assert summary.splitlines()[1].startswith("1 without a body, since it has expired")
    assert "1 have no body any more and will be left: body_expired" in dry
    assert [row["id"] for row in await remaining(engine)] == [expired, whole]


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

    assert (code, problem) == (PIPE_CLOSED, "")


OUTPUTS = [
    ("relay", "status"),
    ("relay", "status", "--json"),
    ("relay", "check"),
    ("relay", "topology"),
    ("relay", "migrate"),
    ("relay", "dead", "list"),
    ("relay", "--help"),
    ("consumer", "status", TARGET),
    ("consumer", "purge", TARGET),
    ("consumer", "dead", "list", TARGET),
    ("consumer", "dead", "show", TARGET, "1", "--body", *BECAUSE),
    ("consumer", "dead", "export", TARGET, "-"),
    ("consumer", "dead", "drop", TARGET, "--all", *BECAUSE),
    ("outbox_demo", "--help"),
]


async def test_output_that_cannot_be_written_is_a_line(shell, engine):
    await write_dead_letters(engine, 1)
    await shell.run("relay", "topology")
    await shell.run("consumer", "topology", TARGET)

    line = "error: standard output: cannot be written: No space left on device\n"
    for command in OUTPUTS:
        ended = await asyncio.to_thread(shell, *command, device=Path("/dev/full"))
        assert ended.code == 1, command
        assert ended.err.endswith(line), command
        assert "Traceback" not in ended.err


async def test_output_to_a_closed_pipe_ends_a_command_like_the_signal_of_the_pipe(shell):
    reader, closed = os.pipe()
    os.close(reader)
    try:
        assert await shell.writing_to(closed, "relay", "status") == (PIPE_CLOSED, "")
    finally:
        os.close(closed)


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
    search, row = await audit_rows(engine)
    assert search["action"] == "find_by_key"
    assert search["selection"] == row["selection"] == {"key": True, "limit": 5}
    assert LEAK_MARKER not in "".join(said) + str(search) + str(row)


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("export", "-"),
        ("export", "-", "--bodies"),
        ("replay", "--dry-run"),
        ("drop", "--dry-run"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("exists", [True, False])
async def test_whether_a_person_has_dead_letters_is_told_for_a_reason_that_is_stored(
    shell, engine, command, exists
):
    key = f"user-{LEAK_MARKER}"
    await write_dead_letter(engine, a_dead_letter(idempotency_key=key if exists else "other"))

    refused = await shell.consumer(*command, "--key", key)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: --because: is needed ")
    assert await audited(engine) == []

    told = await shell.consumer(*command, "--key", key, *BECAUSE)
    assert told.code == 0
    assert (await audited(engine))[0] == ("find_by_key", int(exists))
    assert (await audit_rows(engine))[0]["because"] == BECAUSE[1]
    assert len(await remaining(engine)) == 1


CAUSE = {"error_class": "ValueError", "error_place": "etl.py:7 in load"}


async def test_a_list_groups_dead_letters_by_their_cause_for_people_and_for_programs(
    shell, engine
):
    first, second, _ = await write_dead_letter(
        engine,
        a_dead_letter(**CAUSE),
        a_dead_letter(**CAUSE),
        a_dead_letter(reason="no_unit", idempotency_key=LEAK_MARKER),
    )

    shown = await shell.consumer("list", "--error", "ValueError", "--sort", "newest")
    whole = await shell.consumer("list", "--json", "--limit", "1", "--sort", "newest")
    misspelt = [
        await shell.consumer(*command, "--reason", "no_units")
        for command in (["list"], ["replay", "--dry-run"], ["drop", *BECAUSE], ["export", "-"])
    ]

    lines = [line.split() for line in shown.out.splitlines()]
    assert shown.out.count("etl.py:7 in load") == 1
    assert [int(line[1]) for line in lines if line[1:2] and line[1].isdecimal()] == [
        2,
        second,
        first,
    ]
    found = json.loads(whole.out)
    assert found["matches"] == 3
    assert [(each["letters"], each["error_class"]) for each in found["groups"]] == [
        (2, "ValueError"),
        (1, None),
    ]
    (letter,) = found["dead_letters"]
    assert (letter["reason"], "body" in letter) == ("no_unit", False)
    assert LEAK_MARKER not in shell.printed
    hint = (
        "warning: --reason: no dead letter has this reason; there are: no_unit, "
        "retries_exhausted\n"
    )
    assert [(each.code, each.err.startswith(hint)) for each in misspelt] == [(0, True)] * 4


WHOLE = {
    "type": "health.data.uploaded.by.a.device.with.a.name.of.more.than.eighty.characters.in.all",
    "reason": "retries_exhausted",
    "message_id": "01a22620-30f5-736c-bcca-3ae3fe8d3e2f",
}


def read_all(terminal: int) -> str:
    """All that was written to the other end of *terminal*, which is closed."""
    parts = []
    with suppress(OSError):
        while part := os.read(terminal, 65_536):
            parts.append(part)
    return b"".join(parts).decode()


async def test_ids_and_codes_are_whole_in_a_pipe_and_on_a_narrow_terminal(shell, engine):
    (id_,) = await write_dead_letter(engine, a_dead_letter(**WHOLE))
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (24, 40))

    piped = [
        await shell.consumer(*command)
        for command in (("list",), ("show", str(id_)), ("drop", "--all", "--dry-run"))
    ]
    code, _ = await shell.writing_to(secondary, *CONSUMER, "list", TARGET)
    os.close(secondary)
    on_terminal = read_all(primary)
    os.close(primary)

    assert [code, *(command.code for command in piped)] == [0] * 4
    for out in (on_terminal, *(command.out for command in piped)):
        assert WHOLE["type"] in out
        assert WHOLE["reason"] in out
        assert "…" not in out
    for out in (on_terminal, piped[0].out, piped[1].out):
        assert WHOLE["message_id"] in out


async def test_a_text_that_is_longer_than_any_type_or_id_is_shortened_in_lists_alone(
    shell, engine
):
    long = {"type": "t" * 10_000, "reason": "r" * 10_000, "message_id": "m\n" * 5_000}
    await write_dead_letter(
        engine, a_dead_letter(**long), a_dead_letter_of_the_relay(**long), a_dead_letter(**WHOLE)
    )

    for command in (
        ("consumer", "dead", "list", TARGET),
        ("consumer", "dead", "drop", TARGET, "--all", "--dry-run"),
        ("consumer", "status", TARGET),
        ("relay", "dead", "list"),
        ("relay", "status"),
    ):
        ended = await shell.run(*command)
        assert ended.code == 0, ended.err
        assert max(map(len, ended.out.splitlines())) < 1_000
        assert "r" * 254 + "…" in ended.out
        assert "m\n" not in ended.out.removesuffix("\n")
    for dead in (("consumer", "dead", "export", TARGET, "-"), ("relay", "dead", "export", "-")):
        ended = await shell.run(*dead)
        assert long.items() <= json.loads(ended.out.splitlines()[0]).items()
    ended = await shell.consumer("show", "1")
    assert long["type"] in ended.out


ODD_TEXTS = ["CAST(x'ff41' AS TEXT)", "x'ff41'", "'a' || char(0) || 'b'", "''"]
TEXT_COLUMNS = (
    *("queue", "reason", "ordering_key", "message_id", "type", "exchange", "routing_key"),
    *("idempotency_key", "correlation_id", "priority", "content_type", "content_encoding"),
)
OF_ANY_TYPE = [
    *((column, value) for column in TEXT_COLUMNS for value in ODD_TEXTS),
    *(("attempts", value) for value in ("'x'", "1.5", "x'31'", "-5", "9223372036854775807")),
    *(("headers", value) for value in ("7", "x'ff'", "'{'", "'[]'", "'null'", "1.5")),
    *(("body", value) for value in ("'text'", "7", "1.5", "''", "CAST(x'ff41' AS TEXT)")),
    *((time, value) for time in ("occurred_at", "first_at", "last_at") for value in ("'x'", "7")),
    *((time, "x'32'") for time in ("occurred_at", "first_at", "last_at")),
]


async def test_dead_letters_of_sqlite_of_any_type_hide_and_stop_no_others(shell, engine):
    await shell.run("consumer", "topology", TARGET)
    for make in (a_dead_letter, a_dead_letter_of_the_relay):
        await write_dead_letter(engine, *(make() for _ in (*OF_ANY_TYPE, "a good one")))
    async with engine.begin() as connection:
        for number, (column, value) in enumerate(OF_ANY_TYPE, 1):
            for id_ in (number, len(OF_ANY_TYPE) + 1 + number):
                await connection.exec_driver_sql(
                    f"UPDATE dead_letters SET {column} = {value} WHERE id = {id_}"
                )
        await connection.exec_driver_sql(
            "INSERT INTO processed_messages (consumer, idempotency_key, message_id, type, status)"
            " VALUES ('effects', x'ff', 'x', x'ff41', 'completed')"
        )

    for command in (
        ("consumer", "dead", "list", TARGET),
        ("consumer", "dead", "export", TARGET, "-", "--bodies", *BECAUSE),
        ("consumer", "dead", "drop", TARGET, "--all", "--dry-run"),
        ("consumer", "status", TARGET),
        ("consumer", "status", TARGET, "--json"),
        ("consumer", "dead", "replay", TARGET, "--all", "--completed", *BECAUSE),
        ("relay", "dead", "list"),
        ("relay", "dead", "export", "-", "--bodies", *BECAUSE),
        ("relay", "status"),
        ("relay", "status", "--json"),
        ("relay", "dead", "replay", "--all", *BECAUSE),
    ):
        ended = await shell.run(*command)
        assert "Traceback" not in ended.err, command
        assert "error" not in ended.err, command
        assert ended.code == ("replay" in command), command
    left = {letter["id"] for letter in await remaining(engine)}

    size = len(OF_ANY_TYPE) + 1
    assert not {size, 2 * size} & left  # the good ones
    columns = dict(enumerate((column for column, _ in OF_ANY_TYPE), 1))
    of_consumer = {columns[id_] for id_ in left if id_ < size}
    of_relay = {columns[id_ - size] for id_ in left if id_ > size}
    unused = {"reason", "attempts", "first_at", "last_at"}
    assert not of_consumer & {*unused, "ordering_key", "idempotency_key"}
    assert not of_relay & {*unused, "queue"}


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
    child = PreparedProcess(
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
        child = PreparedProcess(
            [sys.executable, "-m", *RELAY, "list"],
            log=tmp_path / "list.log",
            env={"PYTHONPATH": str(REPOSITORY), "MQ_DATABASE_URL": url},
            cwd=tmp_path,
        )
        async with child:
            with (await asyncio.to_thread(silent.accept))[0]:
                code = await child.terminate(by=signal.SIGINT, within=20)

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
    *grants, of_audit = sorted(documented_rights("operator"), key=lambda right: right == AUDIT)
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
            for grant in grants:
                await connection.execute(sa.text(f"{grant} TO {role}"))
        refused, _, problem = await shell.consumer("replay", "--all", *BECAUSE)
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"{of_audit} TO {role}"))
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
        "error: the database user lacks a privilege: see Rights on Postgres in docs/how-to/run.md",
    )
    assert [code for code, *_ in allowed] == [0, 0, 0]
