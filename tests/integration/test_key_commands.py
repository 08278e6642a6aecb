"""
The commands `relay keys`, on keys in a file and in a key database.
"""

import asyncio
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Audit, StatedFilters
from outbox.database.engine import create_engine
from outbox.encryption import body_format
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.key_ring import EncryptionKey, KeyRing
from outbox.encryption.keys import KeyProvider, WrappedKey
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.encryption.subjects import SubjectKey
from outbox.errors import ConfigurationError
from outbox.key_operations.rewrap import Run, WrappedAgain
from outbox.key_operations.rewrapping import Wanted
from outbox.payload import MAX_BODY_BYTES
from outbox.tables import outbox
from tests.support.builders import LEAK_MARKER
from tests.support.commands import CommandLine, Ended
from tests.support.dead_letters import (
    a_dead_letter_of_the_relay,
    audit_rows,
    write_dead_letter,
)
from tests.support.encrypted_rows import (
    BODIES,
    a_ring,
    a_row,
    bodies,
    key_ids,
    opened,
    write_ring,
    write_rows,
)
from tests.support.eventually import eventually

BECAUSE = ("--because", "the yearly rotation")


class Keys(CommandLine):
    """Runs `relay keys` with the keys of *ring* in a file."""

    def __init__(self, directory: Path, database_url: str, ring: KeyRing) -> None:
        self.file = directory / "keys.json"
        super().__init__(
            directory,
            MQ_DATABASE_URL=database_url,
            MQ_ENCRYPTION_KEYS=write_ring(self.file, ring),
        )

    async def keys(self, *command: str, **settings: str) -> Ended:
        return await self.run("relay", "keys", *command, **settings)

    async def status(self, *options: str) -> tuple[int, dict[str, Any]]:
        ended = await self.keys("status", "--json", *options)
        return ended.code, json.loads(ended.out)


async def test_rows_get_the_current_key_and_the_old_one_can_be_removed(
    database_url, engine, tmp_path
):
    old, ring = a_ring(30), a_ring(30, 10)
    rows = [a_row(old), a_row(old, subject="someone"), a_row(None)]
    await write_rows(engine, rows)
    before = {table.name: await bodies(engine, table) for table in BODIES}
    shell = Keys(tmp_path, database_url, ring)

    code, report = await shell.status()
    assert code == 0
    assert [(key["id"], key["state"], key["rows"]) for key in report["keys"]] == [
        ("key-10", "current", {}),
        ("key-30", "old", dict.fromkeys(("outbox", "dead_letters", "parked_messages"), 1)),
    ]
    assert report["rows_of_subject_keys"] == report["plain_rows"]
    assert set(report["plain_rows"].values()) == {1}
    refused = await shell.keys("retire", "key-30", *BECAUSE)
    assert refused.code == 2
    assert "1 of outbox" in refused.err

    rewrapped = await shell.keys("rewrap", *BECAUSE)

    assert rewrapped.code == 0, rewrapped.err
    new = a_ring(30, 10).without("key-30")
    for table in BODIES:
        found = await bodies(engine, table)
        assert key_ids(found[:2]) == ["key-10", ""]
        assert found[1:] == before[table.name][1:]
        assert ciphertext(found[0]) == ciphertext(before[table.name][0])
        assert LEAK_MARKER.encode() in opened(rows[0], found[0], new)
    retired = await shell.keys("retire", "key-30", *BECAUSE)
    assert retired.code == 0, retired.err
    assert [key["id"] for key in json.loads(shell.file.read_text())["keys"]] == ["key-10"]
    assert [(row["action"], row["messages"]) for row in await audit_rows(engine)] == [
        *([("keys_rewrap", 1)] * 3),
        ("keys_retire", 0),
    ]
    assert LEAK_MARKER not in shell.printed


async def test_a_missing_key_and_an_old_one_are_problems(sqlite_url, tmp_path):
    engine = create_engine(make_url(sqlite_url), pool_size=1, application_name="test")
    await write_rows(engine, [a_row(a_ring(50))])
    await engine.dispose()
    shell = Keys(tmp_path, sqlite_url, a_ring(30))

    code, report = await shell.status("--max-age", "29d")

    assert code == 1
    assert [(key["id"], key["state"]) for key in report["keys"]] == [
        ("key-30", "current"),
        ("key-50", "unknown"),
    ]
    assert [problem.partition(":")[0] for problem in report["problems"]] == ["key-30", "key-50"]
    rewrapped = await shell.keys("rewrap", *BECAUSE)
    assert rewrapped.code == 1
    assert "left: 3 key_unknown" in rewrapped.out
    for command, reason in (
        (("retire", "key-30", "--force", *BECAUSE), "encrypts now"),
        (("retire", "key-50", "--force", *BECAUSE), "no key with this id"),
        (("rotate",), "--because"),
    ):
        refused = await shell.keys(*command)
        assert (refused.code, reason in refused.err) == (2, True), refused.err


async def test_a_rotation_adds_a_key_that_is_used_later(sqlite_url, tmp_path):
    shell = Keys(tmp_path, sqlite_url, a_ring(30))

    assert (await shell.keys("rotate", *BECAUSE, "--active-in", "2h")).code == 0
    now = await shell.keys("rotate", *BECAUSE, "--active-in", "0")

    assert now.code == 0, now.err
    _, report = await shell.status()
    assert [key["state"] for key in report["keys"]] == ["next", "current", "old"]
    for source in ("env:KEYS", "python:json:dumps"):
        refused = await shell.keys("rotate", *BECAUSE, MQ_ENCRYPTION_KEYS=source)
        assert (refused.code, refused.err.startswith("error: MQ_ENCRYPTION_KEYS")) == (2, True)


async def test_a_row_that_a_relay_holds_is_taken_later(postgres_url, server):
    old, ring = a_ring(30), a_ring(30, 10)
    await write_rows(server, [a_row(old) for _ in range(3)])
    run = a_run(server, ring)

    async with server.connect() as relay:
        held = sa.select(outbox.c.id).order_by(outbox.c.id).limit(1).with_for_update()
        await relay.execute(held)
        running = asyncio.create_task(run.run())
        await eventually(lambda: run.summary.done["outbox"] == 2)
        await relay.rollback()
    await running

    assert run.summary.is_clean
    assert key_ids(await bodies(server)) == ["key-10"] * 3


async def test_a_run_that_was_interrupted_is_continued(engine, monkeypatch):
    monkeypatch.setattr("outbox.key_operations.rewrap.BATCH", 2)
    old, ring = a_ring(30), a_ring(30, 10)
    await write_rows(engine, [a_row(old) for _ in range(5)])
    first = a_run(engine, ring)
    first = replace(first, on_progress=lambda _rows: first.stop.set())

    await first.run()

    assert (first.summary.interrupted, dict(first.summary.done)) == (True, {"outbox": 2})
    assert key_ids(await bodies(engine)) == ["key-10"] * 2 + ["key-30"] * 3
    await a_run(engine, ring).run()
    for table in BODIES:
        assert key_ids(await bodies(engine, table)) == ["key-10"] * 5
    assert sum(row["messages"] for row in await audit_rows(engine)) == 15


async def test_a_body_that_a_longer_key_would_make_too_large_keeps_the_old_one(engine):
    """A key of a service is longer: the table refused the row, and with it each run."""
    old, ring = a_ring(30), a_ring(30, 10)
    longer = EncryptionKey("k" * 200, bytes(32), ring.current.active_from)
    small = a_row(old, content_type="a/b", payload=b"")
    payload = bytes(MAX_BODY_BYTES - len(small["body"]))
    await write_rows(engine, [a_row(old, content_type="a/b", payload=payload), small])
    run = a_run(engine, KeyRing([*old.keys, longer], b"d" * 32))

    await run.run()

    assert run.summary.left == {"too_large": 3}
    assert key_ids(await bodies(engine)) == ["key-30", longer.id]


async def test_a_source_that_cannot_unwrap_its_own_keys_overwrites_none(engine):
    old = a_ring(30)
    await write_rows(engine, [a_row(old)])
    before = await bodies(engine)

    class Broken(KeyRing):
        def wrap(self, key: bytes, /) -> WrappedKey:
            return WrappedKey("key-10", super().wrap(key).wrapped[::-1])

    with pytest.raises(ConfigurationError, match="cannot unwrap what it has wrapped"):
        await a_run(engine, Broken(a_ring(30, 10).keys, b"d" * 32)).run()

    assert await bodies(engine) == before


async def test_the_outbox_refuses_plaintext_while_that_is_required(database_url, engine, tmp_path):
    shell = Keys(tmp_path, database_url, a_ring(1))
    assert (await shell.keys("require", *BECAUSE)).code == 0

    with pytest.raises(sa.exc.DBAPIError, match="must be encrypted before the INSERT"):
        await insert(engine, a_row(None))
    if engine.dialect.name == "postgresql":
        with pytest.raises(sa.exc.DBAPIError) as refused:
            async with engine.begin() as connection:
                await connection.execute(sa.text("SELECT outbox_add('test.happened', '{}')"))
        assert "encrypt" in refused.value.orig.__cause__.hint
    await insert(engine, a_row(a_ring(1)))
    await write_dead_letter(engine, a_dead_letter_of_the_relay())
    replay = ("relay", "dead", "replay", "--all", *BECAUSE)
    assert "1 left: plaintext_refused" in (await shell.run(*replay)).out
    assert (await shell.status())[1]["refuses_plaintext"]
    checked = await shell.run("relay", "check")
    assert "outbox refuses plaintext: set it, or run `relay keys allow-plaintext`" in checked.err
    assert "runs before each INSERT" not in checked.err
    checked = await shell.run("relay", "check", MQ_REQUIRE_ENCRYPTION="true")
    assert "ok: the outbox refuses plaintext" in checked.out
    assert (await shell.keys("allow-plaintext", *BECAUSE)).code == 0
    checked = await shell.run("relay", "check", MQ_REQUIRE_ENCRYPTION="true")
    assert "accepts plaintext from producers without it" in checked.err
    await insert(engine, a_row(None))
    assert (await shell.run(*replay)).code == 0

    actions = [row["action"] for row in await audit_rows(engine)]
    assert [action for action in actions if action.startswith("keys")] == [
        "keys_require",
        "keys_allow_plaintext",
    ]


@pytest.fixture(params=["sqlite", "postgres"])
def key_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database for keys, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


async def test_keys_in_a_key_database_have_the_same_life(key_url, sqlite_url, tmp_path):
    shell = Keys(tmp_path, sqlite_url, a_ring(1))
    shell.settings["MQ_ENCRYPTION_KEYS"] = key_url

    made = await shell.keys("init")
    assert made.code == 0, made.err
    assert (await shell.keys("init")).code == 2
    persons = await asyncio.to_thread(keys_of_persons, key_url)
    rotated = await shell.keys("rotate", *BECAUSE, "--active-in", "0")
    assert rotated.code == 0, rotated.err
    rewrapped = await shell.keys("rewrap", *BECAUSE)
    assert rewrapped.code == 0, rewrapped.err
    assert "3 subject_keys" in rewrapped.out
    _, report = await shell.status()
    current, old = (key["id"] for key in report["keys"])
    assert report["keys"][0]["rows"] == {"subject_keys": 3}
    retired = await shell.keys("retire", old, "--force", *BECAUSE)

    assert retired.code == 0, retired.err
    assert await asyncio.to_thread(keys_of_persons, key_url) == persons
    assert current in rotated.out
    assert [ended.err for ended in (made, rotated, rewrapped, retired)] == [""] * 4


def keys_of_persons(url: str) -> list[SubjectKey]:
    """Ask as a producer for the keys of three persons."""
    with closing(KeyConnection(url, setting="URL")) as connection:
        keys = KeyDatabase(connection, setting="URL")
        subjects = SubjectKeyDatabase(connection, keys, setting="URL")
        return [subjects.key_of(bytes([number]) * 32) for number in range(3)]


def ciphertext(body: bytes) -> bytes:
    return body_format.parse(body).ciphertext


async def insert(engine: AsyncEngine, row: dict[str, Any]) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.insert(outbox), [row])


def a_run(engine: AsyncEngine, keys: KeyProvider) -> Run:
    audit = Audit(actor="a test", because="x", source="relay", selection=StatedFilters())
    return Run(
        engine=engine,
        wrapped=WrappedAgain(keys),
        wanted=Wanted("key-10", None),
        audit=audit,
        stop=asyncio.Event(),
        on_progress=lambda _rows: None,
    )
