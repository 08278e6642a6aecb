"""
Messages become rows: `consumer run examples.hl7_mllp.handlers:hl7_consumer`.

The consumer is ordered: it handles the messages of a patient in the order in which the listener
has committed them, so the last ward is the last that was reported.
"""

import hl7
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, Reject
from examples.hl7_mllp import message
from examples.hl7_mllp.header import Header, Refused
from examples.hl7_mllp.listener import EVENT_TYPES
from examples.hl7_mllp.message import field
from examples.hl7_mllp.tables import observations, wards

hl7_consumer = Consumer("hl7", bindings=["hl7.#"], ordered=True)


@hl7_consumer.on(EVENT_TYPES["ORU^R01"])
async def report(delivery: Message[bytes], session: AsyncSession) -> None:
    """A row for each segment OBX."""
    parsed, patient = parse(delivery.payload)
    rows = [
        {
            "message_id": delivery.id,
            "position": position,
            "patient": patient,
            "code": field(parsed, "OBX", 3, segment=position),
            "value": field(parsed, "OBX", 5, segment=position),
            "unit": field(parsed, "OBX", 6, segment=position),
        }
        for position in range(1, len(parsed.segments("OBX")) + 1)
    ]
    if rows:  # a report may be cancelled
        await session.execute(sa.insert(observations), rows)


@hl7_consumer.on(EVENT_TYPES["ADT^A01"])
async def admit(delivery: Message[bytes], session: AsyncSession) -> None:
    """The ward in which a patient is; an earlier stay is over."""
    parsed, patient = parse(delivery.payload)
    await session.execute(sa.delete(wards).where(wards.c.patient == patient))
    await session.execute(sa.insert(wards).values(patient=patient, ward=field(parsed, "PV1", 3)))


@hl7_consumer.on(EVENT_TYPES["ADT^A02"])
async def move(delivery: Message[bytes], session: AsyncSession) -> None:
    """Patients move after they were admitted: a ward that is missing is an error."""
    parsed, patient = parse(delivery.payload)
    moved = await session.execute(
        sa.update(wards)
        .where(wards.c.patient == patient)
        .values(ward=field(parsed, "PV1", 3))
        .returning(wards.c.patient)
    )
    if moved.one_or_none() is None:
        raise Reject("patient_not_admitted")


def parse(payload: bytes) -> tuple[hl7.Message, str]:
    """The message and its patient; dead-lettered if another program has published nonsense."""
    try:
        parsed = message.parse(Header.of(payload), payload)
        return parsed, message.patient_of(parsed)
    except Refused as refused:
        raise Reject(f"hl7_error_{refused.code}") from None
