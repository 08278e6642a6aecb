"""
The example of a consumer that deletes the data of an erased person.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import sqlalchemy as sa

import outbox
from consumer.testing import running
from examples.erasure import metadata, reading, readings, ward
from outbox import producer_encryption
from outbox.encryption.key_ring import KeyRing, new_ring
from outbox.erasure.evidence import event
from tests.support.subject_keys import SubjectKeysInMemory


@pytest.fixture
def ring() -> KeyRing:
    return new_ring(datetime.now(UTC))


@pytest.fixture
def subjects(ring: KeyRing) -> Iterator[SubjectKeysInMemory]:
    before, found = producer_encryption.chosen(), SubjectKeysInMemory()
    outbox.use_encryption(ring, subjects=found)
    yield found
    producer_encryption.use(before)


async def test_the_data_of_an_erased_person_are_deleted_and_no_other(
    database_url: str, embedded_broker_url: str, ring: KeyRing, subjects: SubjectKeysInMemory
) -> None:
    where = {"database": database_url, "broker": embedded_broker_url, "tables": metadata}
    async with running(ward, **where) as app:
        await app.record(reading("patient-17", 60), reading("patient-18", 70))
        await app.drain()
        await app.record(reading("patient-17", 61))
        await subjects.erase("patient-17", ring.digest_key())
        await app.record(event(uuid4(), "patient-17"))
        drained = await app.drain()

        async with app.session() as session:
            left = (await session.scalars(sa.select(readings.c.patient))).all()
        assert left == ["patient-18"]
        assert len(drained.erased) == 1
