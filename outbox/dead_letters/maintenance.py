"""
Periodic work on dead letters in a running process: counting them, and purging old ones.

A purge is a run like those of the commands: it locks each batch, skips what a replay has locked,
and adds a row to the audit log in the transaction that deletes the batch. So does the run that
deletes only old bodies.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit
from outbox.database.errors import driver_errors_translated, with_deadline
from outbox.database.privileges import Rights
from outbox.dead_letters.report import DeadLetterReport
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.dead_letters.source import CHANGING, EXPIRING, READING, reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.errors import DatabaseUnavailable
from outbox.runtime.process import Availability
from outbox.runtime.service import pause

COUNT_EVERY = timedelta(minutes=1)
PURGE_EVERY = timedelta(hours=1)
ANSWERS_WITHIN = timedelta(seconds=20)

BECAUSE = "MQ_DEAD_LETTER_RETENTION_DAYS"
BECAUSE_OF_BODIES = "MQ_DEAD_LETTER_BODY_RETENTION_DAYS"
"""The reasons in the audit log."""

WORK = "dead_letters"
"""The name of the work in the log."""


def rights(retention: timedelta | None, body_retention: timedelta | None = None) -> Rights:
    """The rights that the work needs; to delete or change letters only with a retention."""
    if retention is not None:
        return CHANGING
    return READING if body_retention is None else EXPIRING


class DeadLetterMaintenance:
    """
    Counts the dead letters of *source*, and deletes those that are older than the *retention*.

    Of those that are older than *body_retention* it deletes the body. Any number of processes may
    do this at the same time; a dead letter, or a body, is deleted once. *actor* is
    the name of the process in the audit log. *clock* returns seconds that never go back.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        source: str,
        *,
        retention: timedelta | None,
        body_retention: timedelta | None = None,
        actor: str,
        report: DeadLetterReport,
        availability: Availability,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._store = DeadLetters(source)
        self._retention = retention
        self._body_retention = body_retention
        self._actor = actor
        self._report = report
        self._availability = availability
        self._clock = clock
        self._purged_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set: a count every minute, purge and expiry every hour."""
        while not stop.is_set():
            try:
                await self.work(stop)
            except DatabaseUnavailable as error:
                self._availability.background(WORK, error)
            else:
                self._availability.background(WORK, None)
            await pause(stop, COUNT_EVERY)

    async def work(self, stop: asyncio.Event) -> None:
        """Purge if it is time, and count; raises DatabaseUnavailable."""
        with driver_errors_translated():
            # First, with its deadline: a purge would wait for a lock on the table without end.
            counts = await self._counts()
            if self._deletes and self._is_time():
                if self._retention is not None:
                    await self._purge(self._retention, stop)
                if self._body_retention is not None:
                    await self._expire(self._body_retention, stop)
                self._purged_at = self._clock()
                counts = await self._counts()
        self._report.sampled(counts)

    async def _counts(self) -> list[ReasonCount]:
        async with with_deadline(ANSWERS_WITHIN), reading(self._engine) as connection:
            return await self._store.reason_counts(connection)

    @property
    def _deletes(self) -> bool:
        return self._retention is not None or self._body_retention is not None

    def _is_time(self) -> bool:
        last = self._purged_at
        return last is None or self._clock() - last >= PURGE_EVERY.total_seconds()

    async def _purge(self, older_than: timedelta, stop: asyncio.Event) -> None:
        from outbox.dead_letters.replay import Run  # noqa: PLC0415 - only a purge needs it

        run = Run(
            engine=self._engine,
            store=self._store,
            snapshot=await self._snapshot(),
            audit=self._audit(BECAUSE, older_than),
            stop=stop,
            on_progress=self._report.purged,
        )
        await run.drop(Action.PURGE)

    async def _expire(self, older_than: timedelta, stop: asyncio.Event) -> None:
        from outbox.dead_letters.expiry import Expiry  # noqa: PLC0415 - only with a retention

        expiry = Expiry(
            engine=self._engine,
            store=self._store,
            snapshot=await self._snapshot(),
            audit=self._audit(BECAUSE_OF_BODIES, older_than),
            stop=stop,
            on_expired=self._report.bodies_expired,
        )
        await expiry.run()

    async def _snapshot(self) -> Snapshot:
        async with reading(self._engine) as connection:
            return await self._store.snapshot(connection)

    def _audit(self, because: str, older_than: timedelta) -> Audit[Selection]:
        return Audit(
            actor=self._actor,
            because=because,
            source=self._store.source,
            selection=Selection(older_than=older_than),
        )
