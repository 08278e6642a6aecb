"""
`relay erase` and `relay readmit`: the keys of persons, their events, the evidence.
"""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import Event
from outbox.audit.log import Action
from outbox.audit_tables import audit_head, audit_log
from outbox.database_time import database_now, now_plus
from outbox.encryption.body_format import subject_of
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_tables import subject_keys
from outbox.encryption.keys import KeysUnavailable
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.encryption.subjects import SubjectErased
from outbox.erasure import erasure
from outbox.erasure.opened import Opened
from outbox.key_store.reader import SubjectKeyStore
from outbox.tables import dead_letters, outbox
from outbox.wire.row_codec import from_row, to_row
from tests.support.audit import an_audit, without_triggers
from tests.support.commands import CommandLine, Ended
from tests.support.keys import SETTING, KeyStore, key_store

BECAUSE = ("--because", "request 17")


@dataclass
class Scene:
    """An outbox and a key database, with a producer and the command line of an operator."""

    store: KeyStore
    engine: AsyncEngine
    producer: SubjectKeyDatabase
    relay: CommandLine
    directory: Path

    def encrypted(self, subject: str, number: int = 0) -> dict[str, Any]:
        """The row of an event about *subject*; raises SubjectErased."""
        encryptor = Encryptor(self.store.ring, subjects=self.producer)
        event = Event("note.taken", {"note": number}, subject=subject)
        return encryptor.encrypted(to_row(event), subject=subject, compression="none")

    async def record(self, table: sa.Table, subject: str, **columns: Any) -> UUID:
        """Insert an event about *subject* into *table*; returns the id of its key."""
        row = {**self.encrypted(subject), **columns}
        known = {name: value for name, value in row.items() if name in table.c}
        async with self.engine.begin() as connection:
            await connection.execute(sa.insert(table).values(known))
        found = subject_of(row["body"])
        assert found is not None
        return found

    def file(self, *subjects: str) -> str:
        path = self.directory / "subjects"
        path.write_text("".join(f"{each}\n" for each in subjects))
        return str(path)

    def run(self, *arguments: str) -> Ended:
        return self.relay("relay", *arguments, "--json")

    def erase(self, *subjects: str) -> Any:
        """Erase *subjects*; the output of the command."""
        return as_json(self.run("erase", "--subject-file", self.file(*subjects), *BECAUSE))

    async def change_keys(self, **values: Any) -> None:
        """Change all keys, as a crash, a restore or the clock does."""
        await self.store.rows(sa.update(subject_keys).values(**values))

    async def rows(self, table: sa.Table) -> list[sa.RowMapping]:
        async with self.engine.connect() as connection:
            found = await connection.execute(sa.select(table).order_by(*table.primary_key))
            return list(found.mappings())

    async def announced(self) -> list[Any]:
        """The payloads of the events `subject.erased`, decrypted."""
        decryptor = Decryptor(self.store.ring)
        rows = [row for row in await self.rows(outbox) if row["type"] == "subject.erased"]
        return [json.loads(decryptor.decrypted(from_row(row), {}).body) for row in rows]


@pytest.fixture
def key_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'keys.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
async def scene(
    key_url: str, database_url: str, engine: AsyncEngine, tmp_path: Path
) -> AsyncIterator[Scene]:
    async with key_store(key_url) as store:
        connection = KeyConnection(key_url, setting=SETTING)
        producer = SubjectKeyDatabase(connection, store.ring, setting=SETTING)
        relay = CommandLine(
            tmp_path,
            MQ_DATABASE_URL=database_url,
            MQ_ENCRYPTION_KEYS=key_url,
            MQ_BROKER_URL=f"sqlite:///{tmp_path / 'broker.db'}",
        )
        yield Scene(store, engine, producer, relay, tmp_path)
        connection.close()


def as_json(ended: Ended) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


async def states(scene: Scene) -> set[str]:
    column = subject_keys.c
    return {row.state for row in await scene.store.rows(sa.select(column.state))}


async def test_an_erasure_destroys_keys_and_leaves_events_and_evidence_without_a_name(
    scene: Scene,
) -> None:
    waiting = await scene.record(outbox, "patient-17")
    await scene.record(outbox, "patient-18")
    await scene.record(dead_letters, "patient-17", source="etl", reason="failed", attempts=1)
    file = scene.file("patient-17", "patient-99", "", "patient-17")

    planned = as_json(scene.run("erase", "--subject-file", file, "--dry-run"))
    assert await states(scene) == {"active"}
    done = as_json(scene.run("erase", "--subject-file", file, *BECAUSE))
    repeated = as_json(scene.run("erase", "--subject-file", file, *BECAUSE))

    unreadable = {"outbox": 1, "dead_letters": 1, "parked_messages": 0}
    assert done == {
        "erased": 1,
        "erased_before": 0,
        "unknown": 1,
        "unreadable": unreadable,
        "unfinished": 0,
    }
    assert planned == done
    assert (repeated["erased"], repeated["erased_before"]) == (0, 1)
    assert await scene.announced() == [{"subject": "patient-17"}]
    (evidence,) = await scene.rows(audit_log)
    assert (evidence["action"], evidence["messages"]) == ("erase", 1)
    assert evidence["details"] == {"keys": [str(waiting)], "unreadable": unreadable}
    assert "patient" not in str(dict(evidence))
    reader = SubjectKeyStore(scene.store.engine, scene.store.ring, setting=SETTING)
    async with reader.holding({waiting}) as held:
        assert held.keys == {waiting: None}


async def test_a_person_who_is_readmitted_has_a_new_key(scene: Scene) -> None:
    old = await scene.record(outbox, "patient-17")
    file = scene.file("patient-17")
    as_json(scene.run("erase", "--subject-file", file, *BECAUSE))
    await scene.change_keys(erased_at=now_plus(-61.0))
    with pytest.raises(SubjectErased):
        scene.encrypted("patient-17")

    done = as_json(scene.run("readmit", "--subject-file", file, *BECAUSE))
    new = await scene.record(outbox, "patient-17")

    assert done == {"readmitted": 1, "not_erased": 0, "unknown": 0}
    assert new != old
    assert [row["action"] for row in await scene.rows(audit_log)] == ["erase", "readmit"]


async def test_keys_that_a_restore_brings_back_are_destroyed_again_without_names(
    scene: Scene,
) -> None:
    await scene.record(outbox, "patient-17")
    await scene.record(outbox, "patient-18")
    backup = await scene.store.rows(sa.select(subject_keys))
    file = scene.file("patient-17", "patient-18")
    as_json(scene.run("erase", "--subject-file", file, *BECAUSE))
    await scene.change_keys(erased_at=now_plus(-61.0))
    as_json(scene.run("readmit", "--subject-file", scene.file("patient-18"), *BECAUSE))
    await restore(scene, backup)

    counted = as_json(scene.run("erase", "--again", "--dry-run"))
    done = as_json(scene.run("erase", "--again", *BECAUSE))
    repeated = as_json(scene.run("erase", "--again", *BECAUSE))

    assert [each["erased_again"] for each in (counted, done, repeated)] == [2, 2, 0]
    assert await states(scene) == {"erased"}
    with pytest.raises(SubjectErased):
        scene.encrypted("patient-17")
    scene.encrypted("patient-18")
    assert len(await scene.announced()) == 2


async def restore(scene: Scene, backup: Iterable[Any]) -> None:
    await scene.store.rows(sa.delete(subject_keys))
    for row in backup:
        await scene.store.rows(sa.insert(subject_keys).values(row._mapping))


async def test_an_erasure_waits_for_the_batches_that_began_before_and_for_no_other(
    scene: Scene,
) -> None:
    key = await scene.record(outbox, "patient-17")
    file = scene.file("patient-17")
    reader = SubjectKeyStore(scene.store.engine, scene.store.ring, setting=SETTING)

    async with reader.holding({key}) as held:
        late = scene.run("erase", "--subject-file", file, *BECAUSE, "--wait", "0.5")
        assert held.keys[key] is not None
        await held.verify()
    assert late.code == 4
    assert "--wait" in late.err
    assert await states(scene) <= {"active", "erasing"}

    done = as_json(scene.run("erase", "--subject-file", file, *BECAUSE))
    assert done["erased"] == 1
    assert await scene.announced() == [{"subject": "patient-17"}]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(b"", "has no line"), (b"\xff\n", "is not UTF-8"), (b"a\nb\0\n", "line 2 cannot be")],
)
async def test_a_bad_file_is_refused_without_a_name(
    scene: Scene, lines: bytes, problem: str
) -> None:
    path = scene.directory / "subjects"
    path.write_bytes(lines)

    ended = scene.run("erase", "--subject-file", str(path), *BECAUSE)

    assert ended.code == 2
    assert f"--subject-file: {problem}" in ended.err


async def test_a_second_person_approves_an_erasure_before_it_begins(scene: Scene) -> None:
    await scene.record(outbox, "patient-17")
    command = ("erase", "--subject-file", scene.file("patient-17"), *BECAUSE, "--json")

    ended = scene.relay("relay", *command, MQ_TWO_PERSON="true")

    assert ended.code == 5
    assert "relay approve 1" in ended.err
    assert await states(scene) == {"active"}
    (request,) = await scene.rows(audit_log)
    assert request["action"] == "request"
    assert "patient" not in str(dict(request))

    await scene.store.rows(sa.update(subject_keys).values(state="erasing"))
    assert scene.relay("relay", *command, MQ_TWO_PERSON="true").code == 0
    assert await states(scene) == {"erased"}


async def test_an_erasure_that_crashed_twice_has_one_event_and_one_evidence(scene: Scene) -> None:
    """Once after the keys were destroyed; the run that went on, before it had noted its end."""
    await scene.record(outbox, "patient-17")
    destroyed = {"state": "erased", "wrapped": None, "run": uuid4()}
    await scene.change_keys(**destroyed, erased_at=database_now())
    scene.erase("patient-17")
    await scene.change_keys(announced_at=None)

    done = scene.erase("patient-17", "patient-18")

    assert done["unfinished"] == 0
    assert await scene.announced() == [{"subject": "patient-17"}]
    assert len(await scene.rows(audit_log)) == 1


async def test_a_restored_outbox_gets_event_and_evidence_again(scene: Scene) -> None:
    await scene.record(outbox, "patient-17")
    scene.erase("patient-17")
    await without_triggers(scene.engine)
    async with scene.engine.begin() as connection:
        for table in (audit_log, audit_head, outbox):
            await connection.execute(sa.delete(table))

    done, repeated = scene.erase("patient-17"), scene.erase("patient-17")

    assert (done["erased"], repeated["erased"]) == (1, 0)
    assert await scene.announced() == [{"subject": "patient-17"}]
    assert [row["action"] for row in await scene.rows(audit_log)] == ["erase"]


async def test_an_erasure_that_a_failover_has_undone_is_no_evidence(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await scene.record(outbox, "patient-17")

    async def failover(*_arguments: Any, **_options: Any) -> None:
        await scene.change_keys(state="active")

    monkeypatch.setattr(erasure, "wait_for_older", failover)
    opened = Opened(scene.store.engine, SETTING, scene.engine, scene.store.ring, timedelta(1))

    with pytest.raises(KeysUnavailable, match=r"^MQ_SUBJECT_KEYS_URL: .*run the command again"):
        await erasure.destroy(opened, [key], uuid4(), report=Mock())


async def test_a_readmission_waits_until_no_producer_has_the_old_key(scene: Scene) -> None:
    """Events with the old key would be acked by consumers, and never be seen."""
    await scene.record(outbox, "patient-17")
    scene.erase("patient-17")
    file = scene.file("patient-17")

    early = scene.run("readmit", "--subject-file", file, *BECAUSE)
    await scene.change_keys(erased_at=now_plus(-61.0))
    late = scene.run("readmit", "--subject-file", file, *BECAUSE)

    assert (early.code, late.code) == (2, 0)
    assert "erased less than 60 seconds ago" in early.err
    assert [row["action"] for row in await scene.rows(audit_log)] == ["erase", "readmit"]


async def test_a_second_person_approves_what_the_log_says_is_to_be_destroyed_again(
    scene: Scene,
) -> None:
    """An operator may insert rows into the log, which name keys of persons who live."""
    key = await scene.record(outbox, "patient-17")
    forged = an_audit().record
    async with scene.engine.begin() as connection:
        await forged(connection, Action.ERASE, 1, {"keys": [str(key)]})
    again = ("relay", "erase", "--again", *BECAUSE)

    refused = scene.relay(*again, MQ_TWO_PERSON="true")
    state_then = await states(scene)
    await scene.change_keys(state="erasing")
    goes_on = scene.relay(*again, MQ_TWO_PERSON="true")

    assert (refused.code, state_then) == (5, {"active"})
    assert (goes_on.code, await states(scene)) == (0, {"erased"})
    requested = (await scene.rows(audit_log))[1]
    assert (requested["action"], requested["selection"]["keys"]) == ("request", 1)


async def test_a_reason_that_cannot_be_stored_is_refused_before_a_key_is_destroyed(
    scene: Scene,
) -> None:
    await scene.record(outbox, "patient-17")
    file = scene.file("patient-17")

    for option, text in (("--because", "x" * 1_025), ("--by", " ")):
        arguments = {"--because": "request 17", option: text}
        stated = [each for pair in arguments.items() for each in pair]
        ended = scene.run("erase", "--subject-file", file, *stated)
        assert (ended.code, f"error: {option}: " in ended.err) == (2, True)
    assert await states(scene) == {"active"}
