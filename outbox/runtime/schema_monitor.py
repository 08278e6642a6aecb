"""
Checking the database again while a process runs.

An operator may migrate the tables beneath it, restore rows, or enable row level security. And a
process without work asks the database nothing else, so this is how it notices that the database is
unavailable.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import migrate
from outbox.database.location import Location
from outbox.database.verification import Expectation
from outbox.errors import DatabaseUnavailable, SchemaMismatch
from outbox.runtime import logs
from outbox.runtime.probes import Health
from outbox.runtime.process import Availability
from outbox.runtime.service import pause

VERIFY_EVERY = timedelta(seconds=5)
UNREADY_AFTER = timedelta(seconds=15)
"""
How long checks fail before the process is not ready.

A shorter restart or failover leaves all processes ready that have nothing to do. One that has work
is not ready from its first failure on.
"""

_BY = "check"


SCHEMA = "schema"


class Gate:
    """Lets work on the database begin, unless the last check has found a problem."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def check(self) -> None:
        """Raise DatabaseUnavailable with the problem, as long as there is one."""
        if self.problem is not None:
            raise DatabaseUnavailable(self.problem, waits_for=[SCHEMA])


class SchemaMonitor:
    """
    Closes its *gate* while the database of *engine* is not as *expected*, or no longer has the
    tables where they were *found* at start.

    The process is not ready meanwhile, nor while the database has not answered for
    `UNREADY_AFTER`; its log has the problem. *clock* returns seconds that never go back.
    """

    def __init__(
        self,
        expected: Expectation,
        found: Location,
        engine: AsyncEngine,
        health: Health,
        availability: Availability,
        *,
        every: timedelta = VERIFY_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gate = Gate()
        self._expected = expected
        self._found = found
        self._engine = engine
        self._health = health
        self._availability = availability
        self._log = logs.get("schema")
        self._every = every
        self._clock = clock
        self._answered = clock()
        self._newer: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Check until *stop* is set."""
        self._report_newer(self._found)
        while True:
            await pause(stop, self._every)
            if stop.is_set():
                return
            await self.check()

    async def check(self) -> None:
        """Check once."""
        try:
            await self._check()
        except DatabaseUnavailable as error:
            self._availability.background("verify", error)
            if self._clock() - self._answered >= UNREADY_AFTER.total_seconds():
                self._health.down("database", by=_BY)
                self._availability.down(error, pause=self._every, by=_BY)
        else:
            self._answered = self._clock()
            self._health.up("database", by=_BY)
            self._availability.background("verify", None)
            self._availability.up(by=_BY)

    async def _check(self) -> None:
        before = self.gate.problem
        try:
            now = await self._expected.verify_again(self._engine, self._found, register=True)
        except SchemaMismatch as error:
            self.gate.problem = problem = "; ".join(str(error).splitlines())
            self._health.down(SCHEMA, by=_BY)
            if problem != before:
                self._log.error("schema_refused", problem=problem)
        else:
            self.gate.problem = None
            self._health.up(SCHEMA, by=_BY)
            if before is not None:
                self._log.info("schema_accepted")
            self._report_newer(now)

    def _report_newer(self, now: Location) -> None:
        """Log once that the tables are newer than this program."""
        before, self._newer = self._newer, migrate.newer(now)
        if self._newer not in (None, before):
            self._log.warning("schema_is_newer", problem=self._newer)
