"""
The entry of this process in `outbox_processes`, by which `relay monitor` knows that it runs.

It never disturbs the work: each update is one short statement with a deadline, beside the main
loop, and a failure is only logged. While the database is unavailable the row is not updated, and
its age says so. The row of a process that is killed stays, and ages.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import processes
from outbox.database.errors import with_deadline
from outbox.database.processes import Process, Role
from outbox.errors import DatabaseUnavailable
from outbox.runtime.figures import Figures
from outbox.runtime.probes import Health
from outbox.runtime.process import Availability
from outbox.runtime.schema_monitor import SCHEMA

SEEN_EVERY = timedelta(seconds=10)
LOOK_EVERY = timedelta(seconds=1)
"""How soon the row says that the process waits for another server, or for none any more."""
ANSWERS_WITHIN = timedelta(seconds=5)
LEAVES_WITHIN = timedelta(seconds=2)


def this_process(role: Role, name: str) -> Process:
    """Return the entry of this process, which is a relay or the consumer *name*."""
    return Process(
        id=uuid4(),
        role=role,
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version("outbox-relay"),
    )


class Register:
    """
    Keeps the row of *process* up to date.

    *health* knows what it waits for, and *figures* what it has done.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        process: Process,
        *,
        health: Health,
        availability: Availability,
        figures: Figures,
        every: timedelta = SEEN_EVERY,
        look_every: timedelta = LOOK_EVERY,
    ) -> None:
        self._engine = engine
        self._process = process
        self._health = health
        self._availability = availability
        self._figures = figures
        self._every = every
        self._look_every = look_every

    async def run(self) -> None:
        """Report until the task is cancelled: a process that drains runs too."""
        while True:
            reported, before = time.monotonic(), self._health.missing
            await self.report()
            due = reported + self._every.total_seconds()
            is_due = False
            while not is_due:
                await asyncio.sleep(self._look_every.total_seconds())
                is_due = time.monotonic() >= due or self._health.missing != before

    async def report(self) -> None:
        """Write what the process does now; if it fails, the next call does it."""
        missing = self._health.missing
        state: dict[str, Any] = {
            "waiting_for": ", ".join(missing) or None,
            "figures": self._figures.report(time.monotonic()),
        }
        try:
            async with with_deadline(ANSWERS_WITHIN):
                is_known = await processes.update(self._engine, self._process.id, **state)
                # If the tables are not those of the start, they are none of ours.
                if not is_known and SCHEMA not in missing:
                    await processes.add(self._engine, self._process, **state)
        except DatabaseUnavailable as error:
            self._availability.background("register", error)
        else:
            self._availability.background("register", None)

    async def leave(self) -> None:
        """Delete the row; if the database does not answer at once, it stays and ages."""
        with suppress(DatabaseUnavailable):
            async with with_deadline(LEAVES_WITHIN):
                await processes.remove(self._engine, self._process)


class Reporting(Protocol):
    """The telemetry of a process, as far as the register needs it."""

    availability: Availability
    figures: Figures


@asynccontextmanager
async def registered(
    engine: AsyncEngine, role: Role, name: str, *, health: Health, telemetry: Reporting
) -> AsyncIterator[None]:
    """Keep this process, a relay or the consumer *name*, in the register while the block runs."""
    register = Register(
        engine,
        this_process(role, name),
        health=health,
        availability=telemetry.availability,
        figures=telemetry.figures,
    )
    reporting = asyncio.ensure_future(register.run())
    try:
        yield
    finally:
        reporting.cancel()
        # Else an update in flight could add the row again.
        with suppress(asyncio.CancelledError):
            await reporting
        await register.leave()
