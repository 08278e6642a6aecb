"""
The handlers of simulated consumers: they succeed, fail once, fail always, fail until repaired, or
end their process.

The table of effects has no unique key: an event that is applied twice has two rows. An external
service, which deduplicates by idempotency key, keeps the effects of leased handlers.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from consumer import Consumer, Message, OnLeaseExpired
from tests.reliability.simulation.process import KilledError, current

PLAIN = "simulated.plain"
FAILS_ONCE = "simulated.fails.once"
FAILS_ALWAYS = "simulated.fails.always"
NEEDS_REPAIR = "simulated.needs.repair"
KINDS = (PLAIN, FAILS_ONCE, FAILS_ALWAYS, NEEDS_REPAIR)
NEW = "simulated.new"
"""Workers of the old version have no handler for it."""
ENDS_PROCESS = "simulated.ends.process"
"""Each call ends its process, as a crash of the interpreter does."""
_ALL = (*KINDS, NEW, ENDS_PROCESS)

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
        begun: How often each consumer has begun to handle each event.
        slowness: Seconds that each call takes longer.
        end_process: Kills the process of this name, which is started again.

    """

    lasting: Callable[[], float]
    is_fixed: bool = False
    letters: dict[str, tuple[float, str]] = field(default_factory=dict)
    begun: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowness: float = 0.0
    end_process: Callable[[str], None] = lambda _: None

    @contextmanager
    def slower_by(self, seconds: float) -> Iterator[None]:
        """Make each call take so many *seconds* longer during the block."""
        self.slowness += seconds
        try:
            yield
        finally:
            self.slowness -= seconds

    async def apply(
        self, consumer: str, messages: Sequence[Message[Any]], session: AsyncSession
    ) -> None:
        """
        Record the effects of *messages*, then raise their errors: the effects must be rolled back.
        """
        self.begun.update((consumer, str(message.id)) for message in messages)
        _pass("handle.sent")
        at = asyncio.get_running_loop().time()
        await asyncio.sleep(self.lasting() + self.slowness)
        self._end(messages)
        for message in messages:
            await session.execute(
                sa.insert(effects).values(at=at, consumer=consumer, event_id=str(message.id))
            )
        _pass("handle.answered")
        for message in messages:
            self._fail(message)

    async def post(self, consumer: str, message: Message[Any]) -> None:
        """Call the external service."""
        self.begun[consumer, str(message.id)] += 1
        _pass("handle.sent")
        await asyncio.sleep(self.lasting() + self.slowness)
        self._end([message])
        self._fail(message)
        at = asyncio.get_running_loop().time()
        self.letters.setdefault(message.idempotency_key, (at, str(message.id)))
        _pass("handle.answered")

    def _end(self, messages: Sequence[Message[Any]]) -> None:
        process = current()
        if process is not None and any(message.type == ENDS_PROCESS for message in messages):
            self.end_process(process.name)
            raise KilledError

    def _fail(self, message: Message[Any]) -> None:
        fails = {
            PLAIN: False,
            NEW: False,
            ENDS_PROCESS: False,
            FAILS_ONCE: message.attempt == 1,
            FAILS_ALWAYS: True,
            NEEDS_REPAIR: not self.is_fixed,
        }
        if fails[message.type]:
            raise RuntimeError("as its type says")


def transactional(
    name: str, handlers: Handlers, *, ordered: bool, batch_size: int, is_old: bool = False
) -> Consumer:
    """A consumer whose effects are in its database; *is_old* is the version before NEW."""
    consumer = Consumer(name, bindings=["simulated.#"], ordered=ordered)

    async def one(message: Message[Any], session: AsyncSession) -> None:
        await handlers.apply(name, [message], session)

    async def many(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
        await handlers.apply(name, messages, session)

    for kind in _ALL:
        if is_old and kind == NEW:
            continue
        if kind == PLAIN and batch_size > 1:
            consumer.on_batch(kind, size=batch_size)(many)
        else:
            consumer.on(kind)(one)
    return consumer


def leased(name: str, handlers: Handlers) -> Consumer:
    """A consumer whose effects are outside of its database."""
    consumer = Consumer(name, bindings=["simulated.#"])

    async def post(message: Message[Any]) -> None:
        await handlers.post(name, message)

    for kind in _ALL:
        consumer.on_leased(kind, lease=LEASE, on_expired=OnLeaseExpired.RETRY)(post)
    return consumer


def _pass(step: str) -> None:
    process = current()
    if process is not None:
        process.passing(step)
