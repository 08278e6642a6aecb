"""
How long handlers worked, added to the rows of the dedup store a little later, many at once.

In the transaction of the handler it would be one more round trip for each message. Even so it is
a second version of the row, which a busy consumer was measured to pay for with a tenth of its
rate; so no more than a sample of each second is written.
What a process that dies has not written yet is lost, and nothing depends on it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.dedup import Dedup
from outbox.database.errors import driver_errors_translated
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import commit

WRITE_EVERY = timedelta(seconds=1)
SAMPLE = 100
"""The most that are written of each second: the first ones."""


class Durations:
    """Those of *dedup* that are not written yet."""

    def __init__(self, *, engine: AsyncEngine, dedup: Dedup) -> None:
        self._engine = engine
        self._dedup = dedup
        self._noted: dict[str, timedelta] = {}

    def note(self, durations: Mapping[str, timedelta]) -> None:
        """These messages, by idempotency key, are completed."""
        self._noted |= islice(durations.items(), SAMPLE - len(self._noted))

    async def run(self, stop: asyncio.Event) -> None:
        """Write until *stop* is set, and once more."""
        while not stop.is_set():
            await pause(stop, WRITE_EVERY)
            await self.write()

    async def write(self) -> None:
        """Write what was noted; a database that is away is the workers' to report."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        with suppress(DatabaseUnavailable), driver_errors_translated():
            async with self._engine.connect() as connection:
                await self._dedup.record_durations(connection, noted)
                await commit(connection)
