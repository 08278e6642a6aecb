"""
Files of a directory are registered once, and read if they are what was registered.
"""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from examples.uploads.directory import Directory
from examples.uploads.handlers import files
from examples.uploads.samples import write_avro, write_dicom
from examples.uploads.scan import scan
from examples.uploads.tables import contents, metadata
from outbox import insert
from outbox.tables import outbox
from tests.examples.serving import database, serving


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "uploads"
    (directory / "ct").mkdir(parents=True)
    monkeypatch.setenv("UPLOADS_DIRECTORY", str(directory))
    write_avro(directory / "steps.avro", records=1_000)
    write_dicom(directory / "ct" / "slice.dcm", seed="1")
    (directory / "unfinished.dcm.part").write_bytes(b"half")
    (directory / "notes.txt").write_text("not an upload")
    return directory


async def test_each_file_is_registered_once_and_read(database_url, uploads, tmp_path):
    directory = Directory(uploads)
    async with database(database_url, metadata) as app:
        at_once = await asyncio.gather(*(scan(app.engine, directory) for _ in range(3)))
        again = await scan(app.engine, directory)
        (uploads / "copy.avro").write_bytes((uploads / "steps.avro").read_bytes())
        write_avro(uploads / "steps.avro", records=2_000)
        changed = await scan(app.engine, directory)
        bodies = await app.rows(sa.select(outbox.c.body))
        async with serving(files, database_url=database_url, directory=tmp_path):
            await app.settled(4)

        assert (sum(at_once), again, changed) == (2, 0, 2)
        assert max(len(body) for (body,) in bodies) < 300
        found = await app.rows(sa.select(contents.c.key, contents.c.metadata).order_by("key"))
        # The first content of steps.avro was replaced before a handler could read it.
        assert await app.reasons() == ["digest_differs"]
    of_avro = {"schema": "StepsRecord", "codec": "deflate"}
    (_, of_dicom), *rest = sorted(found, key=lambda row: row[0] != "ct/slice.dcm")
    assert (of_dicom["Modality"], of_dicom["Rows"], of_dicom["Columns"]) == ("CT", 64, 64)
    assert "synthetic" not in str(of_dicom).lower()
    assert rest == [
        ("copy.avro", {**of_avro, "records": 1_000}),
        ("steps.avro", {**of_avro, "records": 2_000}),
    ]


async def test_a_file_that_cannot_be_read_is_rejected_with_a_code(sqlite_url, uploads, tmp_path):
    directory = Directory(uploads)
    for name, content in {
        "broken.avro": b"Obj\x01 and no more",
        "broken.dcm": b"no DICOM",
        "empty.dcm": b"",
    }.items():
        (uploads / name).write_bytes(content)
    events = {found.key: directory.read(found) for found in directory.files()}
    del events["ct/slice.dcm"]
    outside = events.pop("steps.avro").model_copy(update={"key": "../broker.db"})

    async with database(sqlite_url, metadata) as app:
        async with app.engine.begin() as connection:
            await connection.execute(insert(*events.values(), outside))
        async with serving(files, database_url=sqlite_url, directory=tmp_path):
            await app.settled(4)

        assert Counter(await app.reasons()) == {
            "file_unreadable": 3,
            "key_outside_directory": 1,
        }
        assert await app.rows(sa.select(contents)) == []
