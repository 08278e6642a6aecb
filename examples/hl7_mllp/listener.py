"""
Commits each message as an event, then acknowledges it: `python -m examples.hl7_mllp.listener`.
"""

import asyncio
import hashlib
import logging
from functools import partial
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import outbox
from examples.database import connect, upsert
from examples.hl7_mllp import mllp
from examples.hl7_mllp.header import (
    DUPLICATE_KEY,
    INTERNAL_ERROR,
    REQUIRED_FIELD_MISSING,
    UNSUPPORTED_MESSAGE_TYPE,
    Header,
    Refused,
)
from examples.hl7_mllp.message import parse, patient_of
from examples.hl7_mllp.tables import control_ids
from outbox import Event, InvalidEvent

CONTENT_TYPE = "x-application/hl7-v2+er7"
EVENT_TYPES = {
    "ORU^R01": "hl7.oru.r01",
    "ADT^A01": "hl7.adt.a01",
    "ADT^A02": "hl7.adt.a02",
}

log = logging.getLogger(__name__)


async def listen(engine: AsyncEngine, *, port: int) -> asyncio.Server:
    """Accept connections on loopback; each sender waits for an answer before its next message."""
    answer = partial(_answer, engine)
    return await asyncio.start_server(answer, "127.0.0.1", port, limit=mllp.LARGEST)


async def _answer(
    engine: AsyncEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async for block in mllp.blocks(reader):
            writer.write(mllp.framed(await receive(engine, block)))
            await writer.drain()
    except (mllp.InvalidBlock, ConnectionError) as error:
        log.warning("connection closed: %s", type(error).__name__)
    finally:
        writer.close()


async def receive(engine: AsyncEngine, message: bytes) -> bytes:
    """Commit *message*, and return its acknowledgement."""
    header = Header()
    try:
        header = Header.of(message)
        event = event_of(header, message)
        async with engine.begin() as connection:
            if await _is_new(connection, header, message):
                await connection.execute(outbox.insert(event))
    except Refused as refused:
        return header.acknowledgement("AR", error=refused.code)
    except (SQLAlchemyError, OSError) as error:
        # COMMIT may have worked: the sender sends it again, and its control id is found or not.
        # Texts of errors may quote the message, so the log gets the class alone.
        log.warning("message not committed: %s", type(error).__name__)
        return header.acknowledgement("AE", error=INTERNAL_ERROR)
    return header.acknowledgement("AA")


def event_of(header: Header, message: bytes) -> Event:
    """
    The event of *message*, whose body has the bytes that the sender has sent.

    The ordering key, which is the patient's id, never leaves the database. Raises Refused.
    """
    if not header.control_id:
        raise Refused(REQUIRED_FIELD_MISSING)
    if header.kind not in EVENT_TYPES:
        raise Refused(UNSUPPORTED_MESSAGE_TYPE)
    try:
        return Event(
            EVENT_TYPES[header.kind],
            message,
            content_type=CONTENT_TYPE,
            idempotency_key=f"{header.sender}/{quote(header.control_id, safe='')}",
            ordering_key=quote(patient_of(parse(header, message)), safe="@"),
        )
    except InvalidEvent:  # a key that is too long
        raise Refused(REQUIRED_FIELD_MISSING) from None


async def _is_new(connection: AsyncConnection, header: Header, message: bytes) -> bool:
    """
    Whether no message with this control id was received; a twin that is in flight is waited for.

    Raises Refused if the sender has used the control id for another message.
    """
    key = {"sender": header.sender, "control_id": header.control_id}
    digest = hashlib.sha256(message).digest()
    insert = upsert(control_ids, connection.dialect).values(**key, sha256=digest)
    added = await connection.execute(
        insert.on_conflict_do_nothing().returning(control_ids.c.control_id)
    )
    if added.one_or_none() is not None:
        return True
    if await connection.scalar(sa.select(control_ids.c.sha256).filter_by(**key)) != digest:
        raise Refused(DUPLICATE_KEY)
    return False


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    engine = connect()
    async with await listen(engine, port=2575) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
