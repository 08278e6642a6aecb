"""
Doing what needs the database again and again while it is away, uncounted.

A delivery is kept meanwhile: handing it back would use up the delivery limit of the queue, and
dead-letter healthy messages. So would a broker that waits for its settlement too long; so after
`LONGEST` the deliveries are given back once, and no more are taken until the database answers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause

LONGEST = timedelta(minutes=10)
"""A third of what RabbitMQ waits for a settlement before it closes the channel."""

Result = TypeVar("Result")


class DatabaseRetry:
    """How long to wait between attempts to reach a server, and who is told."""

    def __init__(
        self,
        *,
        reconnect: Exponential,
        telemetry: Telemetry,
        health: Health,
        jitter: Callable[[], float],
    ) -> None:
        self._reconnect = reconnect
        self._telemetry = telemetry
        self._health = health
        self._jitter = jitter

    async def run(
        self,
        work: Callable[[], Awaitable[Result]],
        stop: asyncio.Event,
        *,
        longest: timedelta = LONGEST,
    ) -> Result | None:
        """The result of *work*, or None if *stop* is set, or *longest* over, meanwhile."""
        clock = asyncio.get_running_loop().time
        began, failures = clock(), 0
        while True:
            try:
                result = await work()
            except DatabaseUnavailable as error:
                failures += 1
                wait = self.wait(failures)
                self._health.down("database")
                self._telemetry.availability.down(error, pause=wait)
                if stop.is_set() or clock() - began > longest.total_seconds():
                    return None
                await pause(stop, wait)
            else:
                if failures:
                    self._telemetry.availability.up()
                self._health.up("database")
                return result

    def wait(self, failures: int) -> timedelta:
        """How long to wait after so many *failures* in a row."""
        return self._reconnect.delay(failures, jitter=self._jitter()) or timedelta(0)
