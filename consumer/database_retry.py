"""
Repeats work that needs the database while the database is unavailable; no attempt is counted.
The same for work that needs keys, while their source is unavailable.

The consumer keeps its deliveries meanwhile: to requeue them would use up the delivery limit of the
queue, and the broker would dead-letter healthy messages. It must not keep them forever either,
because the broker closes the channel of a consumer that settles too late. So after `LONGEST` the
consumer requeues its deliveries once, and takes no more until the database answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import TypeVar

from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable, KeysUnavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause

FIRST_PAUSE = timedelta(milliseconds=200)

LONGEST = timedelta(minutes=10)
"""A third of RabbitMQ's default consumer timeout, after which it closes the channel."""

WAITED_FOR = (DatabaseUnavailable, KeysUnavailable)
_NEEDS = ("database", "keys")

Result = TypeVar("Result")


class DatabaseRetry:
    """
    Repeats work after pauses that *reconnect* sets, and reports the database as unavailable.

    *jitter* returns a number in [0, 1). `is_unavailable` is true from a failure to a success.
    """

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
        self.is_unavailable = False

    async def run(
        self,
        work: Callable[[], Awaitable[Result]],
        stop: asyncio.Event,
        *,
        longest: timedelta = LONGEST,
    ) -> Result | None:
        """The result of *work*; None if *stop* is set, or *longest* has passed, before it."""
        began = asyncio.get_running_loop().time()
        try:
            result = await work()
        except WAITED_FOR as error:
            return await self.repeat(error, work, stop, began=began, longest=longest)
        self.succeeded()
        return result

    async def repeat(
        self,
        error: DatabaseUnavailable | KeysUnavailable,
        work: Callable[[], Awaitable[Result]],
        stop: asyncio.Event,
        *,
        began: float,
        longest: timedelta = LONGEST,
    ) -> Result | None:
        """Like `run`, for *work* that *began* at that time of the loop and failed with *error*."""
        clock = asyncio.get_running_loop().time
        failures = 1
        while True:
            wait = self.pause_after(failures)
            self.is_unavailable = True
            self._wait_for(error.waits_for)
            self._telemetry.availability.down(error, pause=wait)
            if stop.is_set() or clock() - began > longest.total_seconds():
                return None
            await pause(stop, wait)
            try:
                result = await work()
            except WAITED_FOR as again:
                error, failures = again, failures + 1
            else:
                self._telemetry.availability.up()
                self.succeeded()
                return result

    def succeeded(self) -> None:
        """Work has succeeded, so the database is available, and so are the keys."""
        self.is_unavailable = False
        self._wait_for(())

    def _wait_for(self, needs: Collection[str]) -> None:
        for each in _NEEDS:
            (self._health.down if each in needs else self._health.up)(each)

    def pause_after(self, failures: int) -> timedelta:
        """The pause after this number of *failures* in a row."""
        return self._reconnect.delay(failures, jitter=self._jitter()) or timedelta(0)
