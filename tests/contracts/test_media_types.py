"""
The pattern of a content type means the same to Python and to Postgres.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from outbox.media_type import MEDIA_TYPE, is_media_type

LEGAL = [
    "application/json",
    "Application/JSON",
    'application/json ; charset="utf-8"',
    "application/fhir+json; fhirVersion=4.0",
    'multipart/related; type="application/dicom"; boundary=x',
    "x-application/hl7-v2+er7",
    'a/b; x="a \\"b\\"; c"',
    "a/b;\t;c=d ",
    "a/" + "b" * 127,
]
ILLEGAL = [
    "",
    "json",
    "a/b c",
    "a/b; x",
    "a/b; x= y",
    'a/b; x="y',
    'a/b; x="\x7f"',
    "a/b\n",
    "a/é",
    ".a/b",
    "a/" + "b" * 128,
    "a/b" + "; " * 100 + "\n",
    "a/b, c/d",
]


async def test_postgres_reads_the_pattern_as_python_does(empty_postgres_url):
    engine = create_async_engine(empty_postgres_url)
    matches = sa.text("SELECT CAST(:value AS text) ~ CAST(:pattern AS text)")
    async with engine.connect() as connection:
        found = {
            value: await connection.scalar(
                matches, {"value": value, "pattern": f"^(?:{MEDIA_TYPE})$"}
            )
            for value in (*LEGAL, *ILLEGAL)
        }
    await engine.dispose()

    assert found == {value: value in LEGAL for value in found}
    assert found == {value: is_media_type(value) for value in found}
