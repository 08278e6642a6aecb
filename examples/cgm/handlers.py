"""
Windows become rows: `consumer run examples.cgm.handlers:cgm`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from examples.cgm.tables import readings
from examples.cgm.upload import Upload
from examples.database import upsert

cgm = Consumer("cgm", bindings=["cgm.window.#"])


@cgm.on_batch(Upload, size=100)
async def store(messages: Sequence[Message[Upload]], session: AsyncSession) -> None:
    """Write the readings of all windows by one statement; a later upload wins."""
    rows = newest([message.payload for message in messages])
    insert = upsert(readings, session.get_bind().dialect)
    new = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=[readings.c.device, readings.c.at_seconds],
        set_={"mg_per_dl": new.mg_per_dl, "upload_id": new.upload_id},
        where=new.upload_id > readings.c.upload_id,
    )
    await session.execute(statement, rows)


def newest(uploads: Sequence[Upload]) -> list[dict[str, Any]]:
    """
    The rows of *uploads*, one for each device and time.

    They are in the order of the key: two processes that write the same rows then wait for each
    other, and never in a circle.
    """
    rows = {
        (upload.device, int(reading.at.timestamp())): {
            "device": upload.device,
            "at_seconds": int(reading.at.timestamp()),
            "mg_per_dl": reading.mg_per_dl,
            "upload_id": upload.upload_id,
        }
        for upload in sorted(uploads, key=lambda upload: upload.upload_id)
        for reading in upload.readings
    }
    return [rows[key] for key in sorted(rows)]
