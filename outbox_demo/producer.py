"""
The producing application: `python -m outbox_demo.producer WORK_DIRECTORY SEED`, a child process.

Each transaction inserts business rows and the events about them. The first transaction, and about
one in twenty of the others, is rolled back just before its commit: its events must never be
published. After each transaction the producer records the outcome in its history, for the audit.
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
from outbox_demo import events_file, history, ndjson, sources
from outbox_demo.etl import record
from outbox_demo.run import Run
from outbox_demo.tables import Tables

MOST_EVENTS = 40
"""In one transaction. SQLite has one writer, and every other process waits for it."""

FAILURE_RATE = 0.05


class _UploadFailedError(Exception):
    """An error in the application, after it has inserted the events."""


class Producer:
    """Commits events to the outbox of *engine*, and records the outcomes in *history_file*."""

    def __init__(self, *, engine: AsyncEngine, run: Run, history_file: IO[str], seed: int) -> None:
        self._engine = engine
        self._run = run
        self._uploads = Tables.of(run).uploads
        self._history_file = history_file
        self._random = random.Random(seed)
        self._never_committed = sources.generated(sys.maxsize, seed=seed + 1)

    async def commit_all(self, events: Iterable[Event]) -> None:
        """Commit all *events*; in between, roll back transactions with other events."""
        failing = True
        for batch in self._batches(events):
            if failing:
                await self._fail(list(islice(self._never_committed, len(batch))))
            await self._transaction(batch)
            history.record(
                self._history_file, outcome="committed", ids=[event.id for event in batch]
            )
            failing = self._random.random() < FAILURE_RATE

    def _batches(self, events: Iterable[Event]) -> Iterator[list[Event]]:
        rest = iter(events)
        while batch := list(islice(rest, self._random.randint(1, MOST_EVENTS))):
            yield batch

    async def _fail(self, batch: Sequence[Event]) -> None:
        with suppress(_UploadFailedError):
            await self._transaction(batch, failing=True)
        history.record(
            self._history_file, outcome="rolled_back", ids=[event.id for event in batch]
        )

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
        """*event* with a routing key that only the consumer of this run has bound."""
        return replace(event, routing_key=self._run.prefix + event.routing_key)


async def main(directory: Path, seed: int) -> None:
    """Commit the events of the file in *directory*."""
    settings = load(SharedSettings)
    engine = create_engine(
        settings.database,
        pool_size=2,
        application_name="outbox-demo producer",
        schema=settings.database_schema,
    )
    with (directory / history.FILE_NAME).open("a", encoding="utf-8") as history_file:
        producer = Producer(
            engine=engine, run=Run.from_environment(), history_file=history_file, seed=seed
        )
        await producer.commit_all(ndjson.read(directory / events_file.FILE_NAME))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
