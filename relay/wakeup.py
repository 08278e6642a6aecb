"""
What ends a pause of the relay before its time.

Looking again and again is the truth: whoever is not woken looks a little later. So a wake-up may
be lost, and may be for nothing.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Protocol


class WakeSignal:
    """Rings for whoever waits; a ring that nobody waits for is kept, but only one."""

    def __init__(self) -> None:
        self._notifications = asyncio.Semaphore(0)
        self._closed = False

    def notify(self) -> None:
        """Wake one who waits, or the next who is about to."""
        if self._notifications.locked():
            self._notifications.release()

    def close(self, waiting: int) -> None:
        """Wake all who wait, at most *waiting*; from now on nobody is kept waiting."""
        self._closed = True
        for _ in range(waiting):
            self._notifications.release()

    async def wait(self, within: timedelta | None = None) -> None:
        """Wait for a ring, but no longer than *within*."""
        if self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds() if within is not None else None):
                await self._notifications.acquire()


class Wakeup(Protocol):
    """Has the doorbell rung when rows are inserted, as long as it is armed."""

    @property
    def armed(self) -> bool:
        """Whether every row that is committed from now on will ring."""

    async def arm(self) -> bool:
        """
        Try to be told of new rows.

        Whether this has just begun: what was committed before was not told, so look once more.
        """

    async def disarm(self) -> None:
        """Be told no longer, which spares those who insert rows."""

    async def close(self) -> None:
        """Let go of what it holds."""


class Polling:
    """For databases that tell nobody."""

    armed = False

    async def arm(self) -> bool:
        return False

    async def disarm(self) -> None:
        pass

    async def close(self) -> None:
        pass
