"""
An application on SQLite, for any build of the product: it imports nothing but public names.

    python -m embedded_app create          create the table of the effects
    python -m embedded_app produce COUNT   commit COUNT events, twenty in a transaction
    consumer run embedded_app:app          one effect per event, as a user writes it
"""

import os
import sys
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from consumer import Consumer, Message
from outbox import Event

TYPE = "bench.embedded"
IN_A_TRANSACTION = 20


class Base(DeclarativeBase):
    """The declarative base of the application."""


class Effect(Base):
    """What an event does."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[UUID]
    number: Mapped[int]


app = Consumer("embedded", bindings=[TYPE])


@app.on(TYPE)
async def handle(message: Message[Any], session: AsyncSession) -> None:
    """One effect."""
    session.add(Effect(message_id=UUID(str(message.id)), number=message.payload["number"]))


def _engine() -> sa.Engine:
    engine = sa.create_engine(os.environ["MQ_DATABASE_URL"])

    @sa.event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 30000")

    return engine


def create() -> None:
    """Create the table of the effects."""
    Base.metadata.create_all(_engine())


def produce(count: int) -> None:
    """Commit *count* events."""
    engine = _engine()
    for first in range(0, count, IN_A_TRANSACTION):
        with Session(engine) as session, session.begin():
            numbers = range(first, min(first + IN_A_TRANSACTION, count))
            outbox.add(session, *(Event(TYPE, {"number": number}) for number in numbers))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["create"]:
            create()
        case ["produce", wanted]:
            print("ready", flush=True)
            produce(int(wanted))
        case _:
            raise SystemExit(__doc__)
