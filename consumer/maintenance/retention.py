"""
Forgetting what was handled longer ago than the retention, a little at a time.

Two clocks say what is old. A message is too old to be handled by the consumer's clock, against the
time at which the database of its producer recorded it. A row is too old to be kept by the clock of
the consumer's database, against the time at which that database wrote it. A row that is forgotten
while its message still passes for young would let the message take effect again; so rows stay for
`MARGIN` longer, which is more than clocks of servers differ.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.dedup import PURGE_LIMIT, Dedup
from consumer.telemetry import Telemetry
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.runtime.service import pause

MARGIN = timedelta(hours=1)


class Purge:
    """
    Deletes rows of *dedup* that are *older_than* this and `MARGIN`.

    Raises ConfigurationError if that is below the *horizon*, up to which messages may come again.
    """

    def __init__(
        self, engine: AsyncEngine, dedup: Dedup, *, older_than: timedelta, horizon: timedelta
    ) -> None:
        if older_than < horizon:
            raise ConfigurationError("the dedup store is not purged below its horizon")
        self._engine = engine
        self._dedup = dedup
        self._age = older_than + MARGIN
        # Where the last batch ended: before that the index has only what is gone, which stays in
        # it until vacuum comes, and would be walked over by each batch.
        self._since: datetime | None = None

    async def batch(self) -> int:
        """
        Delete a batch in a transaction of its own; returns how many rows it had.

        Less than `PURGE_LIMIT` are the last of a round; the next one begins at the oldest row.
        Raises DatabaseUnavailable.
        """
        with driver_errors_translated():
            async with self._engine.begin() as connection:
                purged = await self._dedup.purge(
                    connection, older_than=self._age, since=self._since
                )
        self._since = purged.until if purged.rows == PURGE_LIMIT else None
        return purged.rows

    async def batches(self, stop: asyncio.Event) -> AsyncIterator[int]:
        """The rows of each batch of a whole round, or until *stop* is set."""
        rows = PURGE_LIMIT
        while rows == PURGE_LIMIT and not stop.is_set():
            rows = await self.batch()
            yield rows


PURGE_EVERY = timedelta(minutes=10)


class Janitor:
    """Carries out *purge*, round after round."""

    def __init__(self, *, purge: Purge, telemetry: Telemetry) -> None:
        self._purge = purge
        self._telemetry = telemetry

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set."""
        while not stop.is_set():
            rows = 0
            # A database that is away is the workers' to report.
            with suppress(DatabaseUnavailable):
                rows = await self._purge.batch()
            if rows:
                self._telemetry.purged(rows)
            if rows < PURGE_LIMIT:
                await pause(stop, PURGE_EVERY)
