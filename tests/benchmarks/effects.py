"""
The effect of handling a message: one row of the same table for all contenders.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped

EVENT_TYPE = "bench.happened"
URGENT_TYPE = "bench.urgent"

_metadata = sa.MetaData()

effects = sa.Table(
    "benchmark_effects",
    _metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("message_id", sa.Uuid, nullable=False),
    sa.Column("number", sa.Text, nullable=False),
)


class Base(DeclarativeBase):
    """The declarative base of the application."""


class Effect(Base):
    """The effect as an application has it."""

    __table__ = effects
    message_id: Mapped[UUID]
    number: Mapped[str]


handled = sa.Table(
    "benchmark_handled",
    _metadata,
    sa.Column("message_id", sa.Uuid, primary_key=True),
    sa.Column("handled_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)
"""The dedup table of the consumer that is written by hand."""

CREATE = """
CREATE TABLE IF NOT EXISTS benchmark_effects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id uuid NOT NULL,
    number text NOT NULL
);
CREATE TABLE IF NOT EXISTS benchmark_handled (
    message_id uuid PRIMARY KEY, handled_at timestamptz DEFAULT now()
);
"""

_ADD = sa.insert(effects)
_ADD_MANY = sa.insert(effects).from_select(
    ["message_id", "number"],
    sa.select(
        sa.func.unnest(sa.bindparam("ids", type_=ARRAY(sa.Uuid))),
        sa.func.unnest(sa.bindparam("numbers", type_=ARRAY(sa.Text))),
    ),
)


async def add(session: AsyncSession, message_id: UUID | str, payload: Any) -> None:
    """One row."""
    await session.execute(_ADD, {"message_id": message_id, "number": payload["number"]})


async def add_many(session: AsyncSession, some: Sequence[tuple[UUID | str, Any]]) -> None:
    """A row for each of *some*, in one statement."""
    values = {
        "ids": [identity for identity, _ in some],
        "numbers": [payload["number"] for _, payload in some],
    }
    await session.execute(_ADD_MANY, values)


async def forget(connection: Any) -> None:
    """Remove all effects and dedup rows; ids start at 1 again."""
    await connection.execute(
        "TRUNCATE benchmark_effects, benchmark_handled, processed_messages RESTART IDENTITY"
    )
    await connection.execute("CHECKPOINT")
