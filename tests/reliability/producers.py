"""
Producers that commit events during a run, and record the outcome of each transaction.

    one row of `subjects`, locked    serialises the events of a key
    `uploads`                        the business row of the transaction
    `outbox`                         one event or several
    COMMIT, or sometimes ROLLBACK

A COMMIT without a reply is recorded as unknown; `uploads` shows its outcome at the end.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

import outbox
from outbox import Event
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable
from tests.reliability.consumers import FAILS_ALWAYS, FAILS_ONCE, HAPPENED
from tests.reliability.history import COMMITTED, ROLLED_BACK, UNKNOWN, Produced, Record
from tests.reliability.leak_marker import LEAK_MARKER
from tests.reliability.tables import subjects, uploads

APPLICATION = "reliability producer"
TIMEOUT_SECONDS = 10.0
_LATER = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class Load:
    """
    The load of the producers.

    Args:
        events_per_second: Of all producers together.
        producers: How many run in parallel.
        keys: How many ordering keys they use.
        keyed, rolled_back: Shares of transactions.
        failing_once, failing_always, delayed: Shares of events.

    """

    events_per_second: float = 100
    producers: int = 4
    keys: int = 20
    events_per_transaction: int = 4
    keyed: float = 0.5
    rolled_back: float = 0.05
    failing_once: float = 0.02
    failing_always: float = 0.002
    delayed: float = 0.01


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction that a producer is about to make."""

    events: list[Event]
    key: str | None
    is_kept: bool


def draft(load: Load, chance: random.Random) -> Draft:
    """The next transaction of a producer."""
    key = None
    if chance.random() < load.keyed:
        key = f"{LEAK_MARKER.decode()}-{chance.randrange(load.keys)}"
    count = chance.randint(1, load.events_per_transaction)
    events = [_event(load, key, chance) for _ in range(count)]
    return Draft(events, key, is_kept=chance.random() >= load.rolled_back)


def _event(load: Load, key: str | None, chance: random.Random) -> Event:
    kind, drawn = HAPPENED, chance.random()
    if drawn < load.failing_always:
        kind = FAILS_ALWAYS
    elif drawn < load.failing_always + load.failing_once:
        kind = FAILS_ONCE
    later = datetime.now(UTC) + _LATER if chance.random() < load.delayed else None
    return Event(
        kind,
        {"patient": LEAK_MARKER.decode(), "note": "x" * chance.randrange(200)},
        ordering_key=key,
        not_before=later,
    )


@dataclass(slots=True)
class Producers:
    """Produces *load*, and passes a record of each event to *write*."""

    url: str
    write: Callable[[Record], None]
    load: Load
    seed: int
    committed: int = 0
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _resting: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Start, or resume."""
        self._resting.clear()
        self._tasks = [
            asyncio.ensure_future(self._produce(random.Random(f"{self.seed}-{number}")))
            for number in range(self.load.producers)
        ]

    async def stop(self) -> None:
        """Return when the transactions in flight have ended, with any outcome."""
        self._resting.set()
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    async def _produce(self, chance: random.Random) -> None:
        engine = create_engine(make_url(self.url), pool_size=1, application_name=APPLICATION)
        share = self.load.producers / self.load.events_per_second
        try:
            while not self._resting.is_set():
                next_ = draft(self.load, chance)
                await _Transaction(next_, self._report).make(engine.connect)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._resting.wait(), share * len(next_.events))
        finally:
            await engine.dispose()

    def _report(self, record: Produced) -> None:
        self.committed += record.outcome == COMMITTED
        self.write(record)


@dataclass(slots=True)
class _Transaction:
    draft: Draft
    report: Callable[[Produced], None]
    outcome: str = ROLLED_BACK
    first: int = 0

    async def make(self, connect: Callable[[], AsyncConnection]) -> None:
        """Execute the transaction, and report its outcome as far as it is known."""
        with suppress(SQLAlchemyError, OSError, DatabaseUnavailable):
            async with asyncio.timeout(TIMEOUT_SECONDS), connect() as connection:
                await self._write(connection)
        for offset, event in enumerate(self.draft.events):
            self.report(
                Produced(
                    time.time(), str(event.id), self.draft.key, self.first + offset, self.outcome
                )
            )

    async def _write(self, connection: AsyncConnection) -> None:
        events, key = self.draft.events, self.draft.key
        if key is not None:
            last = await connection.scalar(_NEXT, {"of": key, "count": len(events)})
            self.first = (last or 0) - len(events) + 1
        rows = [{"event_id": each.id, "type": each.type} for each in events]
        await connection.execute(sa.insert(uploads), rows)
        await connection.execute(outbox.insert(*events))
        if not self.draft.is_kept:
            await connection.rollback()
            return
        self.outcome = UNKNOWN
        await connection.commit()
        self.outcome = COMMITTED


_NEXT = (
    sa.update(subjects)
    .where(subjects.c.key == sa.bindparam("of"))
    .values(sequence=subjects.c.sequence + sa.bindparam("count"))
    .returning(subjects.c.sequence)
)


def a_row_for_each_key(load: Load) -> sa.Insert:
    """What producers need before they begin."""
    names = [f"{LEAK_MARKER.decode()}-{number}" for number in range(load.keys)]
    return sa.insert(subjects).values([{"key": name} for name in names])
