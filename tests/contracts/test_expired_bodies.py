"""
Old bodies of dead letters: deleted by a process, and what commands do without them.
"""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage import stored_message
from outbox.audit_tables import audit_log
from outbox.dead_letters import encrypted_letters, redaction
from outbox.dead_letters.expired_body import BODY_EXPIRED, EXPIRED_ENCRYPTED
from outbox.dead_letters.letter_keys import LetterKeys
from outbox.dead_letters.maintenance import DeadLetterMaintenance
from outbox.dead_letters.replay import BATCH
from outbox.dead_letters.report import DeadLetterReport
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.store import DeadLetters, Span
from outbox.encryption import body_format
from outbox.encryption.decryptor import Decryptor
from outbox.errors import OutboxError, UnreadableMessage
from outbox.runtime import logs
from outbox.runtime.process import Availability
from outbox.wire import codec, row_codec
from relay.replay import ToOutbox, _envelope_of
from tests.support.builders import LEAK_MARKER
from tests.support.dead_letters import (
    SOURCE,
    Recorder,
    a_dead_letter,
    a_dead_letter_of_the_relay,
    a_run,
    audit_rows,
    audited,
    remaining,
    write_dead_letter,
)
from tests.support.encrypted_rows import OneSubject, a_ring, a_row

OLD = 2 * 86_400
FAR_FROM_OLD = 3_600


def a_maintenance(
    engine: AsyncEngine, registry: CollectorRegistry, *, source: str = SOURCE
) -> DeadLetterMaintenance:
    return DeadLetterMaintenance(
        engine,
        source,
        retention=timedelta(days=9),
        body_retention=timedelta(days=1),
        actor="etl host:1",
        report=DeadLetterReport(registry, source=source, codes=(), other="other"),
        availability=Availability(logs.get("test"), CollectorRegistry()),
    )


async def expire(engine: AsyncEngine, *, source: str = SOURCE) -> None:
    await a_maintenance(engine, CollectorRegistry(), source=source).work(asyncio.Event())


def a_private_letter(**changes: Any) -> dict[str, Any]:
    letter = a_dead_letter(age_seconds=OLD, ordering_key=LEAK_MARKER, **changes)
    letter["headers"] |= {"user": LEAK_MARKER, "traceparent": LEAK_MARKER, "ce-subject": "p"}
    letter["headers"]["x-outbox-lane"] = "0" * 32
    return {**letter, "correlation_id": LEAK_MARKER, "content_encoding": "gzip"}


async def test_a_process_deletes_old_bodies_and_keeps_what_lists_and_replays_need(engine):
    await write_dead_letter(engine, *[a_private_letter() for _ in range(BATCH)])
    (purged,) = await write_dead_letter(engine, a_dead_letter(age_seconds=10 * 86_400))
    *_, old = await write_dead_letter(engine, letter := a_private_letter())
    kept = await write_dead_letter(
        engine,
        a_dead_letter(age_seconds=FAR_FROM_OLD),
        a_dead_letter(age_seconds=OLD, source="another"),
    )
    registry = CollectorRegistry()

    await a_maintenance(engine, registry).work(asyncio.Event())
    await expire(engine)

    rows = {row["id"]: row for row in await remaining(engine)}
    assert purged not in rows
    assert [rows[id_]["body"] for id_ in (old, *kept)] == [b"", *[letter["body"]] * 2]
    assert [id_ for id_, row in rows.items() if row["body_expired_at"] is None] == kept
    changed = {name for name, value in letter.items() if rows[old][name] != value} - {"last_at"}
    assert changed == {"body", "content_encoding", "headers", "correlation_id", "ordering_key"}
    assert set(rows[old]["headers"]) == {
        name for name in letter["headers"] if name.startswith("x-outbox-")
    }
    assert LEAK_MARKER not in str([row for id_, row in rows.items() if id_ not in kept])
    purge, first, second = await audit_rows(engine)
    assert [(row["action"], row["messages"]) for row in (purge, first, second)] == [
        ("purge", 1),
        ("expire_bodies", BATCH),
        ("expire_bodies", 1),
    ]
    assert (first["actor"], first["because"], first["selection"]) == (
        "etl host:1",
        "MQ_DEAD_LETTER_BODY_RETENTION_DAYS",
        {"older_than_seconds": 86_400},
    )
    expired = registry.get_sample_value("mq_dead_letters_bodies_expired_total", {"source": SOURCE})
    assert expired == BATCH + 1


async def test_a_body_stays_if_its_row_is_locked_or_the_log_refuses_the_number(engine):
    (locked,) = await write_dead_letter(engine, a_dead_letter(age_seconds=OLD))
    if engine.dialect.name == "postgresql":
        store = DeadLetters(SOURCE)
        async with engine.connect() as connection:
            where = Selection().where(SOURCE, await store.snapshot(connection))
            await store.lock(connection, where=where, span=Span(0, 9), bodies=False)
            await expire(engine)
            assert await audited(engine) == []
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"ALTER TABLE {audit_log.name} RENAME TO unreachable"))

    with pytest.raises(OutboxError, match="relay migrate"):
        await expire(engine)

    (row,) = await remaining(engine)
    assert (row["id"], row["body_expired_at"]) == (locked, None)
    assert row["body"]


async def test_a_replay_leaves_expired_letters_and_sends_the_others(engine):
    expired, whole = await write_dead_letter(
        engine, a_private_letter(), a_dead_letter(age_seconds=FAR_FROM_OLD)
    )
    await expire(engine)
    destination, run = Recorder(), await a_run(engine)

    await run.replay(destination)

    assert [letter["id"] for letter in destination.taken] == [whole]
    assert [row["id"] for row in await remaining(engine)] == [expired]
    assert (run.summary.done, run.summary.left) == (1, Counter({BODY_EXPIRED: 1}))


async def test_a_new_body_lets_an_expired_letter_be_replayed_as_the_same_message(engine):
    (id_,) = await write_dead_letter(engine, letter := a_private_letter())
    await expire(engine)
    destination = Recorder(refused={letter["message_id"]: "unroutable"})

    async def repaired(found: Any) -> dict[str, Any]:
        return await encrypted_letters.sealed(
            encrypted_letters.no_keys, _envelope_of, found, b"{}"
        )

    await (await a_run(engine, Selection(ids=(id_,)))).replay(destination, repair=repaired)
    (left,) = await remaining(engine)
    assert (left["body"], left["content_encoding"], left["body_expired_at"]) == (b"{}", None, None)
    await (await a_run(engine)).replay(destination := Recorder())

    (sent,) = destination.taken
    envelope = codec.from_wire(stored_message.from_columns(sent))
    assert (str(envelope.id), envelope.idempotency_key) == (
        letter["message_id"],
        letter["idempotency_key"],
    )
    assert await remaining(engine) == []


async def test_a_program_that_knows_of_no_expiry_cannot_take_the_rest_for_a_message(engine):
    await write_dead_letter(engine, a_private_letter())
    await write_dead_letter(engine, a_dead_letter_of_the_relay(**a_time_of(OLD)))
    await expire(engine)
    await expire(engine, source="relay")

    of_consumer, of_relay = await remaining(engine)

    with pytest.raises(UnreadableMessage, match="content_encoding_unknown"):
        codec.from_wire(stored_message.from_columns(of_consumer))
    assert of_relay["content_encoding"] == "outbox-expired"
    run = await a_run(engine, source="relay")
    await run.replay(ToOutbox())
    assert run.summary.left == {BODY_EXPIRED: 1}


class Subjects:
    """A key database with one person."""

    def __init__(self, subject: OneSubject) -> None:
        self.keys = {subject.key.id: subject.key.key}

    @asynccontextmanager
    async def holding(self, _ids: set[UUID]):
        yield self


@pytest.mark.parametrize("subject", [None, "patient-17"])
async def test_an_encrypted_letter_gets_a_new_body_that_is_encrypted_for_the_same_person(
    engine, subject, monkeypatch
):
    person, ring = OneSubject(), a_ring(1)
    monkeypatch.setattr("tests.support.encrypted_rows.OneSubject", lambda: person)
    row = a_row(ring, subject=subject)
    message_id = str(row.pop("event_id"))
    del row["not_before"]
    letter = {**row, "message_id": message_id, "source": "relay", "reason": "x", "attempts": 1}
    await write_dead_letter(engine, {**letter, **a_time_of(OLD)})
    await expire(engine, source="relay")
    (expired,) = await remaining(engine)
    assert expired["content_encoding"] == EXPIRED_ENCRYPTED
    assert body_format.subject_of(expired["body"]) == (person.key.id if subject else None)
    assert len(expired["body"]) == 21

    @asynccontextmanager
    async def keys():
        yield LetterKeys(ring, Subjects(person))

    columns = await encrypted_letters.sealed(keys, _envelope_of, expired, b'{"a": 1}')

    repaired = row_codec.from_row(
        {**expired, **columns, "event_id": UUID(message_id), "exchange": None}
    )
    ciphers = {person.key.id: AESGCM(person.key.key)}
    assert body_format.subject_of(repaired.body) == (person.key.id if subject else None)
    assert Decryptor(ring).decrypted(repaired, ciphers).body == b'{"a": 1}'


async def test_commands_say_since_when_there_is_no_body(engine):
    await write_dead_letter(engine, a_private_letter())
    await expire(engine)
    (row,) = await remaining(engine)
    letter = {**row, "size_bytes": 0}

    when = row["body_expired_at"].isoformat(timespec="minutes")
    assert redaction.readable_body(letter) == f"body expired at {when}"
    assert redaction.body(letter) == {"body": None}
    assert redaction.metadata(letter)["body_expired_at"] == row["body_expired_at"].isoformat()


def a_time_of(age_seconds: float) -> dict[str, Any]:
    return {"last_at": a_dead_letter(age_seconds=age_seconds)["last_at"]}
