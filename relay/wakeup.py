"""
Ending a pause of the relay early.

The relay does not depend on it: a relay that is not woken polls a little later. So a wake-up may
be lost, and may be spurious.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Protocol


class WakeSignal:
    """Wakes a waiting task. One notification without a waiting task is kept for the next one."""

    def __init__(self) -> None:
        self._notifications = asyncio.Semaphore(0)
        self._closed = False

    def notify(self) -> None:
        """Wake one waiting task, or the next that waits."""
        if self._notifications.locked():
            self._notifications.release()

    def close(self, waiting: int) -> None:
        """Wake all waiting tasks, at most *waiting*; from now on `wait` returns at once."""
        self._closed = True
        for _ in range(waiting):
            self._notifications.release()

    async def wait(self, within: timedelta | None = None) -> None:
        """Wait for a notification, but no longer than *within*."""
        if self._closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds() if within is not None else None):
                await self._notifications.acquire()


class Wakeup(Protocol):
    """Notifies the relay of inserted rows, as long as it is armed."""

    @property
    def armed(self) -> bool:
        """Whether every row that is committed from now on causes a notification."""

    async def arm(self) -> bool:
        """
        Try to arm.

        Returns whether the state has just changed to armed: rows that were committed before caused
        no notification, so claim once more before waiting.
        """

    async def disarm(self) -> None:
        """Stop the notifications, which cost the transactions that insert rows."""

    async def close(self) -> None:
        """Release its connection and its lock."""


class Polling:
    """For databases that cannot notify."""

    armed = False

    async def arm(self) -> bool:
        return False

    async def disarm(self) -> None:
        pass

    async def close(self) -> None:
        pass
