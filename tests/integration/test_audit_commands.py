"""
The commands `audit` and `approve`, and what MQ_TWO_PERSON does to those on dead letters.
"""

import json
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.audit import approvals
from outbox.audit.log import own_user
from outbox.database.engine import create_engine
from outbox.dead_letters.source import reading
from outbox.runtime.service import ExitCode
from outbox.tables import outbox
from tests.support.builders import LEAK_MARKER
from tests.support.commands import CommandLine, Ended
from tests.support.dead_letters import (
    a_dead_letter,
    a_dead_letter_of_the_relay,
    audit_rows,
    audited,
    remaining,
    write_dead_letter,
)
from tests.support.roles import documented_rights, execute, role

TARGET = "tests.support.effects:consumer"
BECAUSE = ("--because", "ticket 17")
NEEDED = ExitCode.APPROVAL_NEEDED
SHOW = ("relay", "dead", "show", "1", "--body", *BECAUSE)


class Persons:
    """Operators of one database on Postgres, each with a role of its own."""

    def __init__(self, shells: dict[str, CommandLine]) -> None:
        self._shells = shells

    async def run(self, person: str, *command: str) -> Ended:
        return await self._shells[person].run(*command)


@pytest.fixture
async def engine(database_url):
    engine = create_engine(make_url(database_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def postgres_engine(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def persons(postgres_url, tmp_path, embedded_broker_url):
    async with AsyncExitStack() as stack:
        shells = {}
        for person in ("anna", "bela"):
            _, url = await stack.enter_async_context(
                role(postgres_url, *documented_rights("operator"))
            )
            shells[person] = CommandLine(
                tmp_path,
                MQ_DATABASE_URL=url,
                MQ_BROKER_URL=embedded_broker_url,
                MQ_TWO_PERSON="true",
                LOGNAME="somebody",
            )
        yield Persons(shells)


async def test_an_auditor_lists_the_log_and_verifies_it_against_a_pinned_head(
    engine, database_url, tmp_path
):
    shell = CommandLine(tmp_path, MQ_DATABASE_URL=database_url)
    assert (await shell.run("relay", "audit", "head")).out == f"0:{'0' * 64}\n"
    await write_dead_letter(engine, a_dead_letter_of_the_relay(), a_dead_letter())
    assert (await shell.run(*SHOW, "--by", "anna")).code == 0
    assert (await shell.run("consumer", "dead", "drop", TARGET, "--all", *BECAUSE)).code == 0

    head = (await shell.run("consumer", "audit", "head", TARGET, "--publish")).out.strip()
    assert head.startswith("2:")
    async with reading(engine) as connection:
        (event,) = (await connection.execute(sa.select(outbox))).all()
    assert (event.type, event.routing_key) == ("audit.head", "audit.head")
    assert json.loads(event.body) == {"log": "effects", "rows": 2, "hash": head[2:]}
    assert await audited(engine) == [("show_body", 1), ("drop", 1), ("pin", 0)]

    shown = await shell.run("relay", "audit", "list", "--action", "show_body", "--actor", "anna")
    assert "ticket 17" in shown.out
    assert LEAK_MARKER not in shown.out
    listed = await shell.run("relay", "audit", "list", "--json", "--since", "2020-01-01T00:00Z")
    assert [row["action"] for row in json.loads(listed.out)] == ["show_body", "drop", "pin"]
    verify = ("relay", "audit", "verify", "--head")
    assert (await shell.run(*verify, head)).code == 0
    refused = await shell.run(*verify, "2")
    assert (refused.code, "--head: must be N:HASH" in refused.err) == (2, True)

    other = await shell.run(*verify, f"2:{'0' * 64}", "--json")
    assert other.code == 1
    fault = {"problem": "other_than_pinned", "id": 2}
    assert json.loads(other.out) | {"head": ""} == {"head": "", "uncovered": 0, "fault": fault}
    said = await shell.run(*verify, f"9:{'0' * 64}")
    assert (said.code, "row 3: rows behind it were removed" in said.out) == (1, True)


async def test_what_a_person_has_stated_is_shown_as_it_is(persons, postgres_engine):
    """Text in brackets is markup for rich, which would hide it, or end the command."""
    await write_dead_letter(postgres_engine, a_dead_letter_of_the_relay())
    export = ("relay", "dead", "export", "-", "--bodies", "--type", "[/a]", "--because")

    asked = await persons.run("anna", *export, "[conceal]ticket[/b]")
    given = await persons.run("bela", "relay", "approve", "1", *BECAUSE)
    listed = await persons.run("bela", "relay", "audit", "list")

    assert (asked.code, given.code, listed.code) == (NEEDED, 0, 0)
    assert "[/a]" in given.out
    assert "[conceal]ticket[/b]" in listed.out


async def test_a_second_person_approves_that_a_body_is_opened_once(persons, postgres_engine):
    await write_dead_letter(
        postgres_engine, a_dead_letter_of_the_relay(), a_dead_letter_of_the_relay()
    )
    approve = ("relay", "approve", "1", *BECAUSE)

    asked = await persons.run("anna", *SHOW)
    assert (asked.code, asked.out) == (NEEDED, "")
    assert "relay approve 1 --because TEXT" in asked.err
    own = await persons.run("anna", *approve)
    assert (own.code, "another person has to approve it" in own.err) == (2, True)
    early = await persons.run("anna", *SHOW, "--approval", "1")
    assert (early.code, "1 is not approved yet" in early.err) == (2, True)
    given = await persons.run("bela", *approve)
    assert (given.code, "show_body of relay, selection {'id': [1]}" in given.out) == (0, True)

    for person, command, why in (
        ("bela", SHOW, "who requested it"),
        ("anna", ("relay", "dead", "show", "2", "--body", *BECAUSE), "another act"),
        ("anna", ("relay", "dead", "export", "-", "--id", "1", "--bodies", *BECAUSE), "another"),
    ):
        refused = await persons.run(person, *command, "--approval", "1")
        assert (refused.code, why in refused.err, refused.out) == (2, True, "")
    shown = await persons.run("anna", *SHOW, "--approval", "1")
    assert (shown.code, LEAK_MARKER in shown.out) == (0, True)
    again = await persons.run("anna", *SHOW, "--approval", "1")
    assert (again.code, "1 was used" in again.err) == (2, True)
    assert (await persons.run("bela", *approve)).code == 2

    rows = await audit_rows(postgres_engine)
    acts = [(row["action"], row["details"]["approval"]) for row in rows]
    assert acts == [("request", 1), ("approve", 1), ("use_approval", 1), ("show_body", 1)]
    anna, bela = rows[0]["role"], rows[1]["role"]
    assert [row["role"] for row in rows] == [anna, bela, anna, anna]
    assert anna != bela


async def test_an_approval_expires(persons, postgres_engine, postgres_url):
    await write_dead_letter(postgres_engine, a_dead_letter_of_the_relay())
    approve = ("relay", "approve", "1", *BECAUSE)
    aged = "ALTER TABLE approvals DISABLE TRIGGER ALL"
    fresh = "ALTER TABLE approvals ENABLE TRIGGER ALL"
    assert (await persons.run("anna", *SHOW)).code == NEEDED
    for column, interval, person, command, why in (
        ("requested_at", "25 hours", "bela", approve, "more than a day ago"),
        ("approved_at", "61 minutes", "anna", (*SHOW, "--approval", "1"), "more than an hour"),
    ):
        change = "UPDATE approvals SET {0} = clock_timestamp() - interval '{1}', approved_by = 'b'"
        await execute(postgres_url, aged, change.format(column, interval), fresh, "SELECT 1")

        refused = await persons.run(person, *command)

        assert (refused.code, why in refused.err) == (2, True)


async def test_bodies_are_replaced_and_exported_with_a_second_person(
    persons, postgres_engine, tmp_path
):
    await write_dead_letter(postgres_engine, a_dead_letter_of_the_relay())
    (tmp_path / "new.json").write_text("{}")
    commands = (
        ("relay", "dead", "export", "-", "--bodies", *BECAUSE),
        ("relay", "dead", "replay", "1", "--body", "new.json", *BECAUSE),
    )
    for number, command in enumerate(commands, start=1):
        assert (await persons.run("anna", *command)).code == NEEDED
        assert (await persons.run("bela", "relay", "approve", str(number), *BECAUSE)).code == 0
        assert (await persons.run("anna", *command, "--approval", str(number))).code == 0
    assert await remaining(postgres_engine) == []

    with_reason = ("relay", "dead", "export", "-", "--bodies", "--key", "k", *BECAUSE)
    by_key = await persons.run("anna", *with_reason)
    assert (by_key.code, "--key: MQ_TWO_PERSON" in by_key.err) == (2, True)


async def test_a_user_of_a_sqlite_file_is_no_second_person_under_another_name(
    sqlite_url, tmp_path, monkeypatch
):
    shell = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_TWO_PERSON="true")
    engine = create_engine(make_url(sqlite_url), pool_size=2, application_name="test")
    await write_dead_letter(engine, a_dead_letter_of_the_relay())
    assert (await shell.run(*SHOW)).code == NEEDED

    same = await shell.run("relay", "approve", "1", *BECAUSE, LOGNAME="bela", USER="bela")
    assert (same.code, f"requested by {own_user()} as well" in same.err) == (2, True)

    monkeypatch.setattr(approvals, "own_user", lambda: "uid 4711")
    await approvals.approve(engine, 1, actor="bela", because="it is")
    await engine.dispose()
    shown = await shell.run(*SHOW, "--approval", "1")
    assert (shown.code, LEAK_MARKER in shown.out) == (0, True)

    unneeded = await shell.run(*SHOW, "--approval", "1", MQ_TWO_PERSON="false")
    assert (unneeded.code, "--approval: is needed only while" in unneeded.err) == (2, True)
