"""
How long handlers worked, added to the rows of the dedup store a little later, many at once.

In the transaction of the handler it would be one more round trip for each message. What a process
that dies has not written yet is lost, and nothing depends on it.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.dedup import Dedup
from outbox.errors import DatabaseUnavailable
from outbox.runtime.engine import commit, translated
from outbox.runtime.service import pause

WRITE_EVERY = timedelta(seconds=1)
AT_ONCE = 1_000
MOST = 100_000
"""While the database is away no more than this is remembered."""


class Durations:
    """Those of *dedup* that are not written yet."""

    def __init__(self, *, engine: AsyncEngine, dedup: Dedup) -> None:
        self._engine = engine
        self._dedup = dedup
        self._noted: dict[str, timedelta] = {}

    def note(self, durations: Mapping[str, timedelta]) -> None:
        """These messages, by idempotency key, are completed."""
        if len(self._noted) < MOST:
            self._noted |= durations

    async def run(self, stop: asyncio.Event) -> None:
        """Write until *stop* is set, and once more."""
        while not stop.is_set():
            await pause(stop, WRITE_EVERY)
            await self.write()

    async def write(self) -> None:
        """Write everything that was noted; a database that is away is the workers' to report."""
        with suppress(DatabaseUnavailable), translated():
            while some := dict(islice(self._noted.items(), AT_ONCE)):
                async with self._engine.connect() as connection:
                    await self._dedup.took(connection, some)
                    await commit(connection)
                for key in some:
                    self._noted.pop(key, None)
