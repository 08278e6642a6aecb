"""
A consumer with data of persons, which deletes them once a person is erased:
`consumer run examples.erasure:ward`.

`relay erase` records the event `subject.erased` once no batch works with the person's key,
so all effects of the person's earlier events are committed before this handler runs. Messages that
are still on their way are acked without a call of a handler.
"""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from examples.database import create_tables
from outbox import Event

metadata = sa.MetaData()
readings = sa.Table(
    "ward_readings",
    metadata,
    sa.Column("message_id", sa.Uuid(), primary_key=True),
    sa.Column("patient", sa.Text, nullable=False, index=True),
    sa.Column("heart_rate", sa.Integer, nullable=False),
)

ward = Consumer("ward", bindings=["reading.taken", "subject.erased"])


def reading(patient: str, heart_rate: int) -> Event:
    """Return the event of a reading; the key of the patient encrypts it."""
    payload = {"patient": patient, "heart_rate": heart_rate}
    return Event("reading.taken", payload, subject=patient)


@ward.on("reading.taken")
async def store(message: Message[dict[str, Any]], session: AsyncSession) -> None:
    await session.execute(sa.insert(readings).values(message_id=message.id, **message.payload))


@ward.on("subject.erased")
async def forget(message: Message[dict[str, str]], session: AsyncSession) -> None:
    """Delete all that this service has stored about the person; a second call changes nothing."""
    await session.execute(
        sa.delete(readings).where(readings.c.patient == message.payload["subject"])
    )


if __name__ == "__main__":
    asyncio.run(create_tables(metadata))
