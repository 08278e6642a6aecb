"""
The whole way of encrypted events, from the producer's row to the effects of the handler.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from consumer import Consumer, Message
from consumer.storage.tables import parked_messages, processed_messages
from consumer.testing import App, running
from outbox import Event, producer_encryption
from outbox.encryption import key_ring
from outbox.encryption.key_ring import KeyRing
from outbox.tables import dead_letters
from outbox.tables import outbox as outbox_table
from outbox.wire.encrypted import ENCODING
from tests.support.builders import AN_INSTANT
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
