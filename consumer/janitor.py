"""
Housekeeping beside the workers: what is older than the retention is forgotten, a little at a time.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.dedup import PURGE_LIMIT, Dedup
from consumer.telemetry import Telemetry
from outbox.errors import DatabaseUnavailable
from outbox.runtime.engine import translated
from outbox.runtime.service import pause

PURGE_EVERY = timedelta(minutes=10)


class Janitor:
    """Purges the rows of *dedup* that are older than *retention*."""

    def __init__(
        self, *, engine: AsyncEngine, dedup: Dedup, retention: timedelta, telemetry: Telemetry
    ) -> None:
        self._engine = engine
        self._dedup = dedup
        self._retention = retention
        self._telemetry = telemetry

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set."""
        while not stop.is_set():
            rows = 0
            # A database that is away is the workers' to report.
            with suppress(DatabaseUnavailable):
                rows = await self._purge()
            if rows:
                self._telemetry.purged(rows)
            if rows < PURGE_LIMIT:
                await pause(stop, PURGE_EVERY)

    async def _purge(self) -> int:
        with translated():
            async with self._engine.begin() as connection:
                return await self._dedup.purge(connection, older_than=self._retention)
