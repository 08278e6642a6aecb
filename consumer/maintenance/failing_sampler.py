"""
Counts the messages that wait for their next attempt, for the metric.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.storage.failing_reads import counts_by_type
from consumer.telemetry import Telemetry
from outbox.database.engine import DEFERRED
from outbox.database.errors import with_deadline
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause

SAMPLE_EVERY = timedelta(seconds=30)
_ANSWERS_WITHIN = timedelta(seconds=10)
_WORK = "sample_failing"


@dataclass(frozen=True, slots=True)
class FailingSampler:
    """Counts the failing messages of *consumer* in the database behind *engine*."""

    engine: AsyncEngine
    consumer: str
    telemetry: Telemetry

    async def run(self, stop: asyncio.Event) -> None:
        """Count every 30 seconds until *stop* is set; the metric is unchanged while it cannot."""
        while not stop.is_set():
            problem: DatabaseUnavailable | None = None
            try:
                await self.sample()
            except DatabaseUnavailable as error:
                problem = error
            self.telemetry.availability.background(_WORK, problem)
            await pause(stop, SAMPLE_EVERY)

    async def sample(self) -> None:
        """Count once. Raises DatabaseUnavailable."""
        async with with_deadline(_ANSWERS_WITHIN), self.engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            self.telemetry.failing_counted(await counts_by_type(connection, self.consumer))
