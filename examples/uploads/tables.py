"""
The tables of scan and handlers; `python -m examples.uploads.tables` creates them.
"""

import asyncio

import sqlalchemy as sa

from examples.database import create_tables

metadata = sa.MetaData()

registered = sa.Table(
    "upload_registered",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    # A scan reads no file again whose size and time it knows.
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("modified_ns", sa.BigInteger, nullable=False),
)

contents = sa.Table(
    "upload_contents",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("metadata", sa.JSON, nullable=False),
)


if __name__ == "__main__":
    asyncio.run(create_tables(metadata))
