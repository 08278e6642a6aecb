"""
The table of readings; `python -m examples.cgm.tables` creates it.

A service creates its tables in its own migrations: see examples/fastapi_service.
"""

import asyncio

import sqlalchemy as sa

from examples.database import create_tables

metadata = sa.MetaData()
readings = sa.Table(
    "cgm_readings",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    # Seconds since 1970: SQLite keeps no time zones.
    sa.Column("at_seconds", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("mg_per_dl", sa.Integer, nullable=False),
    sa.Column("upload_id", sa.BigInteger, nullable=False),
)


if __name__ == "__main__":
    asyncio.run(create_tables(metadata))
