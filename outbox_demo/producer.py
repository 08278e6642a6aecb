"""
The producing application: `python -m outbox_demo.producer WORK_DIRECTORY SEED`, a child process.

Each transaction holds business rows and the events about them. The first one, and of the others
one in twenty, fails at the last moment: what was in it must never be heard of. After each the
history says how it went, for those who count later.
"""

import asyncio
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox import Event
from outbox.database.engine import create_engine
from outbox.settings import SharedSettings, load
from outbox_demo import history, lines, sources, spool
from outbox_demo.etl import record
from outbox_demo.run import Run
from outbox_demo.tables import Tables

MOST_EVENTS = 40
"""In one transaction. SQLite has one writer, whom everybody else waits for."""

FAILURES = 0.05


class _UploadFailedError(Exception):
    """The application changes its mind, as applications do."""


class Producer:
    """Commits events to the outbox of *engine*, and says so in *past*."""

    def __init__(self, *, engine: AsyncEngine, run: Run, past: IO[str], seed: int) -> None:
        self._engine = engine
        self._run = run
        self._uploads = Tables.of(run).uploads
        self._past = past
        self._chance = random.Random(seed)
        self._never = sources.generated(sys.maxsize, seed=seed + 1)

    async def tell(self, events: Iterable[Event]) -> None:
        """Commit all *events*; in between, roll back others."""
        failing = True
        for batch in self._batches(events):
            if failing:
                await self._fail(list(islice(self._never, len(batch))))
            await self._transaction(batch)
            history.note(self._past, outcome="committed", ids=[event.id for event in batch])
            failing = self._chance.random() < FAILURES

    def _batches(self, events: Iterable[Event]) -> Iterator[list[Event]]:
        rest = iter(events)
        while batch := list(islice(rest, self._chance.randint(1, MOST_EVENTS))):
            yield batch

    async def _fail(self, batch: Sequence[Event]) -> None:
        with suppress(_UploadFailedError):
            await self._transaction(batch, failing=True)
        history.note(self._past, outcome="rolled_back", ids=[event.id for event in batch])

    async def _transaction(self, batch: Sequence[Event], *, failing: bool = False) -> None:
        rows = [
            record(event.type, event.id, event.idempotency_key, event.payload) for event in batch
        ]
        async with AsyncSession(self._engine) as session, session.begin():
            await session.execute(sa.insert(self._uploads), rows)
            outbox.add(session, *(self._addressed(event) for event in batch))
            if failing:
                await session.flush()
                raise _UploadFailedError

    def _addressed(self, event: Event) -> Event:
        """*event* with a routing key that only this run's consumer has bound."""
        return replace(event, routing_key=self._run.prefix + event.routing_key)


async def main(directory: Path, seed: int) -> None:
    """Tell what the spool in *directory* holds."""
    engine = create_engine(
        load(SharedSettings).database, pool_size=2, application_name="outbox-demo producer"
    )
    with (directory / history.FILE_NAME).open("a", encoding="utf-8") as past:
        producer = Producer(engine=engine, run=Run.from_environment(), past=past, seed=seed)
        await producer.tell(lines.read(directory / spool.FILE_NAME))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
