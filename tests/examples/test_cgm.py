"""
Glucose readings that arrive several times are stored once.
"""

import io
import random

import sqlalchemy as sa
from rich.console import Console

from consumer.testing import running
from examples.cgm import device, report
from examples.cgm.handlers import cgm
from examples.cgm.tables import metadata, readings


async def test_overlapping_and_repeated_windows_become_one_row_for_each_reading(
    database_url,
):
    uploads = [
        *device.day_of_uploads("device-1", seed=1),
        *device.day_of_uploads("device-2", seed=2),
    ]
    random.Random(3).shuffle(uploads)

    async with running(cgm, database=database_url, tables=metadata) as app:
        await device.record(app.engine, iter(uploads))
        drained = await app.drain()
        async with app.session() as session:
            stored = (await session.execute(sa.select(readings))).all()
        hours = await report.values_by_hour(app.engine)

    assert (len(drained.handled), len(drained.duplicates)) == (48, 8)
    assert {(name, at): value for name, at, value, _ in stored} == {
        (upload.device, reading.at.timestamp()): reading.mg_per_dl
        for upload in sorted(uploads, key=lambda upload: upload.upload_id)
        for reading in upload.readings
    }
    console = Console(width=100, file=io.StringIO())
    console.print(report.table("device-1", hours["device-1"]))
    text = console.file.getvalue()
    assert text.count("12 of 12") == 24
    assert "288 readings" in text
