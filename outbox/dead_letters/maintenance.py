"""
Periodic work on dead letters in a running process: counting, emptying and purging old ones.

A purge is a run like those of the commands: it locks each batch, skips what a replay has locked,
and adds a row to the audit log in the transaction that deletes the batch.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit
from outbox.database.errors import driver_errors_translated, with_deadline
from outbox.database.privileges import Rights
from outbox.dead_letters.report import DeadLetterReport
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import CHANGING, READING, reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.errors import DatabaseUnavailable
from outbox.runtime.process import Availability
from outbox.runtime.service import pause
from outbox.settings import SharedSettings

if TYPE_CHECKING:
    from outbox.dead_letters.replay import Run

COUNT_EVERY = timedelta(minutes=1)
PURGE_EVERY = timedelta(hours=1)
ANSWERS_WITHIN = timedelta(seconds=20)

BECAUSE = "MQ_DEAD_LETTER_RETENTION_DAYS"
BECAUSE_OF_BODIES = "MQ_DEAD_LETTER_BODY_RETENTION_DAYS"
"""The reasons in the audit log."""

WORK = "dead_letters"
"""The name of the work in the log."""


@dataclass(frozen=True, slots=True)
class DeadLetterRetention:
    """
    How long dead letters are kept; None: until a person replays or drops them.

    Args:
        letters: How long their rows are kept.
        bodies: How long their bodies are kept.

    """

    letters: timedelta | None = None
    bodies: timedelta | None = None

    @property
    def rights(self) -> Rights:
        """The rights that the work needs; to change rows only if some are to be changed."""
        return READING if self.letters is None and self.bodies is None else CHANGING


KEPT = DeadLetterRetention()
"""Dead letters are kept until a person replays or drops them."""


def retention_of(settings: SharedSettings) -> DeadLetterRetention:
    """The retention of dead letters in *settings*."""
    return DeadLetterRetention(settings.dead_letter_retention, settings.dead_letter_body_retention)


class DeadLetterMaintenance:
    """
    Counts the dead letters of *source*, and deletes what is older than the *retention*.

    Any number of processes may do this at the same time; a dead letter is changed once. *actor* is
    the name of the process in the audit log. *clock* returns seconds that never go back.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        source: str,
        *,
        retention: DeadLetterRetention,
        actor: str,
        report: DeadLetterReport,
        availability: Availability,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._store = DeadLetters(source)
        self._retention = retention
        self._actor = actor
        self._report = report
        self._availability = availability
        self._clock = clock
        self._purged_at: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set: a count every minute, and a purge every hour."""
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
            if self._retention.rights is CHANGING and self._is_time():
                await self._purge(stop)
                self._purged_at = self._clock()
                counts = await self._counts()
        self._report.sampled(counts)

    async def _counts(self) -> list[ReasonCount]:
        async with with_deadline(ANSWERS_WITHIN), reading(self._engine) as connection:
            return await self._store.reason_counts(connection)

    def _is_time(self) -> bool:
        last = self._purged_at
        return last is None or self._clock() - last >= PURGE_EVERY.total_seconds()

    async def _purge(self, stop: asyncio.Event) -> None:
        if (letters := self._retention.letters) is not None:
            run = await self._run(letters, BECAUSE, self._report.purged, stop)
            await run.drop(Action.PURGE)
        if (bodies := self._retention.bodies) is not None:
            run = await self._run(bodies, BECAUSE_OF_BODIES, self._report.bodies_expired, stop)
            await run.expire_bodies()

    async def _run(
        self,
        older_than: timedelta,
        because: str,
        on_progress: Callable[[int], None],
        stop: asyncio.Event,
    ) -> "Run":
        from outbox.dead_letters.replay import Run  # noqa: PLC0415 - only a purge needs it

        async with reading(self._engine) as connection:
            snapshot = await self._store.snapshot(connection)
        audit = Audit(
            actor=self._actor,
            because=because,
            source=self._store.source,
            selection=Selection(older_than=older_than),
        )
        return Run(
            engine=self._engine,
            store=self._store,
            snapshot=snapshot,
            audit=audit,
            stop=stop,
            on_progress=on_progress,
        )
