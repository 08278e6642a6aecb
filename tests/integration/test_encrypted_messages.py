"""
The whole way of encrypted events, from the producer's row to the effects of the handler.
"""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from consumer import Consumer, Message
from consumer.storage.tables import parked_messages, processed_messages
from consumer.testing import App, Settled, running
from outbox import Event, producer_encryption
from outbox.encryption import key_ring
from outbox.encryption.key_ring import KeyRing
from outbox.errors import ConfigurationError, KeysUnavailable, UnreadableMessage
from outbox.runtime.probes import Health
from outbox.tables import dead_letters
from outbox.tables import outbox as outbox_table
from outbox.testing import assert_recorded
from outbox.wire import row_codec
from outbox.wire.encrypted import ENCODING
from outbox.wire.headers import LANE_HEADER
from outbox_testing.delivered import delivery_of
from tests.support import subject_keys
from tests.support.builders import AN_INSTANT
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.eventually import eventually
from tests.support.keys import key_store
from tests.support.running_consumer import running as running_tasks
from tests.support.subject_keys import SubjectKeysInMemory

METADATA = sa.MetaData()
NOTES = sa.Table("notes", METADATA, sa.Column("note", sa.Text))


@pytest.fixture(autouse=True)
def choice_of_the_process() -> Iterator[None]:
    before = producer_encryption.chosen()
    yield
    producer_encryption.use(before)


@pytest.fixture
def ring() -> KeyRing:
    return key_ring.new_ring(AN_INSTANT)


@pytest.fixture
def subjects(ring: KeyRing) -> SubjectKeysInMemory:
    found = SubjectKeysInMemory()
    outbox.use_encryption(ring, subjects=found)
    return found


@pytest.fixture
def where(urls: tuple[str, str]) -> dict[str, Any]:
    database, broker = urls
    return {"database": database, "broker": broker, "tables": METADATA}


class Notes(Consumer):
    """A consumer that stores the notes of its messages, and keeps the messages themselves."""

    def __init__(self, **options: Any) -> None:
        super().__init__("notes", bindings=["note.#"], **options)
        self.seen: list[Message[Any]] = []
        self.seen_erasures: list[asyncio.Task[None]] = []
        self.before: Any = None
        self.on("note.taken")(self.store)

    async def store(self, message: Message[Any], session: AsyncSession) -> None:
        if self.before is not None:
            await self.before(message)
        self.seen.append(message)
        await session.execute(NOTES.insert().values(note=message.payload["note"]))


def a_note(text: str = "secret", **fields: Any) -> Event:
    return Event("note.taken", {"note": text}, **fields)


async def rows(app: App, table: sa.Table) -> list[sa.RowMapping]:
    async with app.session() as session:
        return list((await session.execute(sa.select(table))).mappings())


async def test_an_encrypted_event_is_handled_and_is_nowhere_in_clear(where, subjects):
    notes = Notes()
    async with running(notes, **where) as app:
        private = {"correlation_id": "visit-secret", "ordering_key": "patient-secret"}
        await app.record(
            a_note("secret", **private, headers={"source": "secret"}),
            a_note("secret", subject="patient-secret", idempotency_key="key-secret", **private),
        )
        recorded = await rows(app, outbox_table)
        drained = await app.drain()
        kept = [*recorded, *await rows(app, processed_messages)]

    assert [each["content_encoding"] for each in recorded] == [ENCODING, ENCODING]
    assert "secret" not in str([dict(each) for each in kept])
    assert len(drained.handled) == 2
    for message in notes.seen:
        assert (message.payload, message.correlation_id) == ({"note": "secret"}, "visit-secret")
    assert notes.seen[0].headers["source"] == "secret"


async def test_the_messages_of_an_erased_person_are_acked_without_a_call(where, ring, subjects):
    """One is in the broker, one is parked behind a failure, and one waits for its retry."""
    notes = Notes(ordered=True)
    notes.before = AsyncMock(side_effect=RuntimeError)
    async with running(notes, **where) as app:
        about = {"subject": "patient", "ordering_key": "patient"}
        await app.record(a_note("first", **about), a_note("second", **about), a_note("other"))
        drained = await app.drain(raises=False)
        assert len(drained.parked) == 2
        notes.before = None
        await app.record(a_note("third", **about))
        await subjects.erase("patient", ring.digest_key())
        erased = await app.advance(timedelta(hours=1))

        assert (len(erased.erased), len(erased.handled)) == (3, 1)
        assert [each["note"] for each in await rows(app, NOTES)] == ["other"]
        assert [row["type"] for row in await rows(app, processed_messages)] == ["note.taken"]
        assert await rows(app, dead_letters) == []
        assert await rows(app, parked_messages) == []


async def test_a_person_is_erased_only_after_the_calls_that_have_the_key(where, ring, subjects):
    """Of a handler with a transaction, and of one with a lease."""
    notes = Notes()
    erased_early: list[object] = []

    async def let_an_erasure_begin(subject: object) -> None:
        erasing = asyncio.create_task(subjects.erase(str(subject), ring.digest_key()))
        early, _ = await asyncio.wait({erasing}, timeout=0.1)
        erased_early.extend(early)
        notes.seen_erasures.append(erasing)

    async def erase(message: Message[Any]) -> None:
        await let_an_erasure_begin(message.headers["source"])

    notes.before = erase
    notes.on_leased("note.mailed")(erase)
    async with running(notes, **where) as app:
        for kind, subject in (("note.taken", "one"), ("note.mailed", "other")):
            headers = {"source": subject}
            await app.record(Event(kind, {"note": "secret"}, subject=subject, headers=headers))
        drained = await app.drain()
        await asyncio.gather(*notes.seen_erasures)

    assert (len(drained.handled), erased_early) == (2, [])


class Base(DeclarativeBase):
    pass


class Kept(Base):
    """A row that a handler adds to its session."""

    __tablename__ = "kept"

    note: Mapped[str] = mapped_column(sa.Text, primary_key=True)


async def test_the_keys_are_verified_once_all_effects_are_written(where, subjects, monkeypatch):
    """A row that waits for a lock would leave an erasure time between the check and the COMMIT."""
    notes, sessions, unwritten = Notes(), [], []

    async def keep(_message: Message[Any], session: AsyncSession) -> None:
        session.add(Kept(note="secret"))
        sessions.append(session)

    async def verify(_held: object) -> None:
        unwritten.extend(len(each.new) for each in sessions)

    monkeypatch.setattr(subject_keys._Held, "verify", verify)
    notes.on("note.kept")(keep)
    async with running(notes, **{**where, "tables": Base.metadata}) as app:
        await app.record(Event("note.kept", {}, subject="patient"))
        assert len((await app.drain()).handled) == 1

    assert unwritten == [0]


async def test_a_message_waits_while_keys_are_unavailable_and_has_no_failed_attempt(
    urls, subjects
):
    """
    The key database is unavailable before the first message, and its session is lost during the
    handler: of the first attempt at the first message, and of the second at the parked one.
    """
    notes, health = Notes(ordered=True), Health()
    lost: list[int] = []

    async def fail_or_lose(message: Message[Any]) -> None:
        if message.payload["note"] == "fails" and message.attempt == 1:
            raise RuntimeError
        if len(lost) < message.attempt:
            lost.append(message.attempt)
            subjects.lose_sessions()

    async def has_notes(engine: AsyncEngine, *expected: str) -> bool:
        async with engine.connect() as connection:
            return sorted(await connection.scalars(sa.select(NOTES.c.note))) == sorted(expected)

    notes.before = fail_or_lose
    subjects.is_reachable = False
    options = {"retry_delays": (0.1,), "reconnect_max_seconds": 0.2}
    about = {"subject": "patient", "ordering_key": "patient"}
    database, transport = urls[0], broker(urls[1])
    async with (
        running_tasks(notes, database, urls[1], health=health, **options) as engine,
        transport.publisher() as publisher,
    ):
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        subjects.is_reachable = True
        messages = [
            delivery_of(a_note(text, **about), exchange=EXCHANGE, attempt=1, redelivered=False)
            for text in ("first", "fails")
        ]
        for each in messages:
            each.message.headers = {**each.message.headers, LANE_HEADER: "0" * 32}
        subjects.is_reachable = False
        await publisher.publish([messages[0].message], within=SOON)
        await eventually(lambda: health.missing == ["keys"])

        subjects.is_reachable = True
        await eventually(partial(has_notes, engine, "first"), within=20)
        await publisher.publish([messages[1].message], within=SOON)
        await eventually(partial(has_notes, engine, "first", "fails"), within=20)
        assert lost == [1, 2]
        # Each of them was called again, as its effects were not committed.
        called = [message.payload["note"] for message in notes.seen]
        assert called == ["first", "first", "fails", "fails"]
        assert health.missing == []
        async with engine.connect() as connection:
            completed = await connection.scalars(sa.select(processed_messages.c.attempts))
            assert sorted(completed) == [1, 2]


CHANGES: dict[str, dict[str, Any]] = {
    "type": {"type": "note.read"},
    "routing key": {"routing_key": "note.other"},
    "content type": {"content_type": "application/fhir+json"},
    "idempotency key": {"idempotency_key": "another"},
}


async def test_a_body_of_another_message_is_not_authentic(where, subjects):
    """Each message was changed in the outbox; the last two have the bodies of each other."""
    notes = Notes()
    notes.on("note.read")(notes.store)
    table = outbox_table.c
    async with running(notes, **where) as app:
        events = [a_note(str(number)) for number in range(len(CHANGES) + 2)]
        await app.record(*events)
        bodies = {row["event_id"]: row["body"] for row in await rows(app, outbox_table)}
        one, other = (event.id for event in events[-2:])
        swapped = [{"body": bodies[other]}, {"body": bodies[one]}]
        changes = [*CHANGES.values(), *swapped]
        async with app.sessionmaker.begin() as session:
            for event, changed in zip(events, changes, strict=True):
                where_ = table.event_id == event.id
                await session.execute(outbox_table.update().where(where_).values(**changed))
        drained = await app.drain(raises=False)

        assert [each.reason for each in drained.dead_letters] == ["body_not_authentic"] * 6
        assert await rows(app, NOTES) == []
        # The id in the envelope is in clear, so that the dedup store has what failed.
        assert len(await rows(app, processed_messages)) == 6


async def test_a_message_waits_for_its_key_before_it_is_a_dead_letter(where, ring, tmp_path):
    file, notes = tmp_path / "keys.json", Notes()
    file.write_text(json.dumps(key_ring.new_ring(AN_INSTANT).to_document()))
    given: dict[str, Any] = {"encryption_keys": f"file://{file}"}
    async with running(notes, **where, settings=given) as app:
        outbox.use_encryption(ring)
        await app.record(a_note())
        [dead] = (await app.drain(raises=False)).dead_letters
        assert dead.reason == "key_unknown"
        outbox.use_encryption(None)

    async with running(notes, **where, settings={**given, "unsupported_wait_seconds": 60}) as app:
        outbox.use_encryption(ring)
        await app.record(a_note())
        assert len((await app.drain()).retries) == 1
        file.write_text(json.dumps(ring.to_document()))
        assert len((await app.advance(timedelta(minutes=1))).handled) == 1
    assert [message.attempt for message in notes.seen] == [1]


async def test_plain_bodies_are_refused_where_encryption_is_required(where, ring, monkeypatch):
    outbox.use_encryption(None)
    async with running(**where) as app:
        await app.record(a_note())
    monkeypatch.setenv("NOTES_KEYS", json.dumps(ring.to_document()))
    given = {"encryption_keys": "env:NOTES_KEYS", "require_encryption": True}
    async with running(Notes(), **where, settings=given) as app:
        drained = await app.drain(raises=False)
        [letter] = await rows(app, dead_letters)
        assert (letter["source"], letter["reason"]) == ("relay", "plaintext_refused")
        assert drained.published == ()

        # As a relay publishes it that does not require encryption.
        with pytest.raises(UnreadableMessage, match="plaintext_refused"):
            await app.call(a_note())

        outbox.use_encryption(ring)
        assert await app.call(a_note()) is Settled.HANDLED

    outbox.use_encryption(None)
    without = running(Notes(), settings={"require_encryption": True})
    with pytest.raises(ConfigurationError, match="MQ_ENCRYPTION_KEYS"):
        await without.__aenter__()


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_an_encrypted_cloudevent_travels_in_binary_mode(where, subjects, mode):
    notes = Notes()
    given = {"cloudevents": mode, "cloudevents_source": "https://clinic.example/notes"}
    async with running(notes, **where, settings=given) as app:
        await app.record(a_note(correlation_id="visit"), a_note(subject="patient"))
        drained = await app.drain()

    assert len(drained.handled) == 2
    assert {message.correlation_id for message in notes.seen} == {"visit", None}
    assert {message.payload["note"] for message in notes.seen} == {"secret"}


@pytest.fixture
def key_url(where: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of the same kind."""
    if where["database"].startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'keys.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


async def test_the_keys_of_persons_come_from_a_key_database(key_url, where):
    """On Postgres the consumer's session there ends while it handles the first message."""
    notes, is_postgres = Notes(), key_url.startswith("postgresql")
    given = {"encryption_keys": key_url}
    async with key_store(key_url) as store, running(notes, **where, settings=given) as app:

        async def end_its_session(_message: Message[Any]) -> None:
            notes.before = None
            if is_postgres:
                others = sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'outbox test%'"
                    " AND datname = current_database()"
                )
                await store.rows(others)

        notes.before = end_its_session
        await app.record(a_note(subject="patient"))
        if is_postgres:
            with pytest.raises(KeysUnavailable, match="MQ_ENCRYPTION_KEYS"):
                await app.drain()
            assert await rows(app, NOTES) == []
            await app.record(a_note(subject="patient"))
        await app.drain()
        assert len(await rows(app, NOTES)) == 1


async def test_a_test_reads_what_was_recorded_and_published(subjects):
    """By the keys of the process, as in the tests of users who call `use_encryption`."""
    about = {"ordering_key": "patient", "idempotency_key": "a-key", "correlation_id": "visit"}
    async with running(Notes(), tables=METADATA) as app:
        async with app.session() as session:
            outbox.add(session, a_note("first", **about), a_note("second", subject="patient"))
            await assert_recorded(session, "note.taken", payload={"note": "first"}, **about)
            await assert_recorded(session, "note.taken", payload={"note": "second"})
            await session.commit()
            await assert_recorded(session, "note.taken", count=2)
        await app.drain()
        app.assert_published("note.taken", payload={"note": "first"}, correlation_id="visit")
        app.assert_published("note.taken", payload={"note": "second"})


async def test_the_keys_of_a_producer_may_be_mounted_as_a_secret(ring, tmp_path, monkeypatch):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(ring.to_document()))
    (tmp_path / "mq_encryption_keys").write_text(f"file://{file}\n")
    producer_encryption.use_environment({"MQ_SECRETS_DIR": str(tmp_path)})
    row = producer_encryption.recorded(a_note(), row_codec.to_row(a_note()))
    assert row["content_encoding"] == ENCODING

    with pytest.raises(ConfigurationError, match="MQ_SECRETS_DIR"):
        producer_encryption.use_environment({"MQ_SECRETS_DIR": str(tmp_path / "missing")})
