"""
Records failed attempts before their copies are published, so that people see why messages wait.

No message waits for it for long: a row that cannot be written within a second is left out, and so
are those of the next `PAUSE`. The copies are published all the same, and no attempt is counted.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.database_retry import DatabaseRetry
from consumer.storage.failing import FailedAttempt, FailingMessages
from consumer.telemetry import Telemetry
from outbox.errors import DatabaseUnavailable

PAUSE = timedelta(seconds=10)
_WORK = "record_failures"


class FailureRecorder:
    """
    Records failed attempts in *failing*, in the database behind *engine*.

    It records none while *database_retry* finds that database unavailable.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        failing: FailingMessages,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
    ) -> None:
        self._engine = engine
        self._failing = failing
        self._database_retry = database_retry
        self._telemetry = telemetry
        self._resumes_at = 0.0

    async def record(self, failed: Sequence[FailedAttempt]) -> None:
        """Record *failed*, in one statement, or leave them out."""
        clock = asyncio.get_running_loop().time
        if self._database_retry.is_unavailable or clock() < self._resumes_at:
            return
        problem: DatabaseUnavailable | None = None
        try:
            await self._failing.record_at_once(self._engine, failed)
        except DatabaseUnavailable as error:
            problem = error
            self._resumes_at = clock() + PAUSE.total_seconds()
        self._telemetry.availability.background(_WORK, problem)
