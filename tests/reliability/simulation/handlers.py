"""
The handlers of simulated consumers: they succeed, fail once, fail always, or fail until repaired.

The table of effects has no unique key: an event that is applied twice has two rows. An external
service, which deduplicates by idempotency key, keeps the effects of leased handlers.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from consumer import Consumer, Message, OnLeaseExpired
from tests.reliability.simulation.process import current

PLAIN = "simulated.plain"
FAILS_ONCE = "simulated.fails.once"
FAILS_ALWAYS = "simulated.fails.always"
NEEDS_REPAIR = "simulated.needs.repair"
KINDS = (PLAIN, FAILS_ONCE, FAILS_ALWAYS, NEEDS_REPAIR)

LEASE = timedelta(seconds=3)

metadata = sa.MetaData()
effects = sa.Table(
    "effects",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("consumer", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
)


def statements_for(tables: sa.MetaData) -> Iterator[str]:
    """The statements that create *tables* in SQLite."""
    for table in tables.sorted_tables:
        yield str(CreateTable(table).compile(dialect=sqlite.dialect()))


@dataclass(slots=True)
class Handlers:
    """
    The behaviour of all handlers.

    Args:
        lasting: Draws the seconds that the next call takes.
        is_fixed: Whether events of the type NEEDS_REPAIR succeed.
        letters: The external service: when it first got each idempotency key, and for which event.

    """

    lasting: Callable[[], float]
    is_fixed: bool = False
    letters: dict[str, tuple[float, str]] = field(default_factory=dict)

    async def apply(
        self, consumer: str, messages: Sequence[Message[Any]], session: AsyncSession
    ) -> None:
        """
        Record the effects of *messages*, then raise their errors: the effects must be rolled back.
        """
        _pass("handle.sent")
        at = asyncio.get_running_loop().time()
        await asyncio.sleep(self.lasting())
        for message in messages:
            await session.execute(
                sa.insert(effects).values(at=at, consumer=consumer, event_id=str(message.id))
            )
        _pass("handle.answered")
        for message in messages:
            self._fail(message)

    async def post(self, message: Message[Any]) -> None:
        """Call the external service."""
        _pass("handle.sent")
        await asyncio.sleep(self.lasting())
        self._fail(message)
        at = asyncio.get_running_loop().time()
        self.letters.setdefault(message.idempotency_key, (at, str(message.id)))
        _pass("handle.answered")

    def _fail(self, message: Message[Any]) -> None:
        fails = {
            PLAIN: False,
            FAILS_ONCE: message.attempt == 1,
            FAILS_ALWAYS: True,
            NEEDS_REPAIR: not self.is_fixed,
        }
        if fails[message.type]:
            raise RuntimeError("as its type says")


def transactional(name: str, handlers: Handlers, *, ordered: bool, batch_size: int) -> Consumer:
    """A consumer whose effects are in its database."""
    consumer = Consumer(name, bindings=["simulated.#"], ordered=ordered)

    async def one(message: Message[Any], session: AsyncSession) -> None:
        await handlers.apply(name, [message], session)

    async def many(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
        await handlers.apply(name, messages, session)

    for kind in KINDS:
        if kind == PLAIN and batch_size > 1:
            consumer.on_batch(kind, size=batch_size)(many)
        else:
            consumer.on(kind)(one)
    return consumer


def leased(name: str, handlers: Handlers) -> Consumer:
    """A consumer whose effects are outside of its database."""
    consumer = Consumer(name, bindings=["simulated.#"])
    for kind in KINDS:
        consumer.on_leased(kind, lease=LEASE, on_expired=OnLeaseExpired.RETRY)(handlers.post)
    return consumer


def _pass(step: str) -> None:
    process = current()
    if process is not None:
        process.passing(step)
