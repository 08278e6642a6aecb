"""
The tables of listener and handlers; `python -m examples.hl7_mllp.tables` creates them.
"""

import asyncio

import sqlalchemy as sa

from examples.database import create_tables

metadata = sa.MetaData()

control_ids = sa.Table(
    "hl7_control_ids",
    metadata,
    sa.Column("sender", sa.Text, primary_key=True),
    sa.Column("control_id", sa.Text, primary_key=True),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)
"""The messages that were acknowledged; delete rows older than the longest resend."""

observations = sa.Table(
    "hl7_observations",
    metadata,
    sa.Column("message_id", sa.Uuid, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("patient", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    # As it was sent: 6.30 is more precise than 6.3, and not each value is a number.
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
)

wards = sa.Table(
    "hl7_wards",
    metadata,
    sa.Column("patient", sa.Text, primary_key=True),
    sa.Column("ward", sa.Text, nullable=False),
)


if __name__ == "__main__":
    asyncio.run(create_tables(metadata))
