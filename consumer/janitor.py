"""
Housekeeping beside the workers: what is older than the retention is forgotten.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from consumer.maintenance.retention import Purge
from consumer.storage.dedup import PURGE_LIMIT
from consumer.telemetry import Telemetry
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause

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
