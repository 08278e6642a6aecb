"""
Ending a pause of the relay early.

The relay does not depend on it: a relay that is not woken polls a little later. So a wake-up may
be lost, and may be spurious.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from relay.scan_rest import rest_after

LOOK_EVERY_SECONDS = 0.1


class WakeSignal:
    """Wakes a waiting task. One notification without a waiting task is kept for the next one."""

    def __init__(self) -> None:
        self._notifications = asyncio.Semaphore(0)
        self._closed = False
        self.total = 0
        """The number of notifications so far."""

    def notify(self) -> None:
        """Wake one waiting task, or the next that waits."""
        self.total += 1
        if self._notifications.locked():
            self._notifications.release()

    def close(self, waiting: int) -> None:
        """Wake all waiting tasks, at most *waiting*; from now on `wait` returns at once."""
        self._closed = True
        for _ in range(waiting):
            self._notifications.release()

    async def wait(self, within: timedelta | None = None) -> bool:
        """Wait for a notification, but no longer than *within*; returns whether there was one."""
        if self._closed:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds() if within is not None else None):
                await self._notifications.acquire()
                return True
        return False


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

    async def has_missed(self) -> bool:
        """
        Whether an armed relay has to claim although no notification came.

        So it is if a row is ready, as one that another relay has released, or if it is no longer
        certain that notifications arrive. Costs less than a claim that finds no rows.
        """

    async def disarm(self) -> None:
        """Stop the notifications, which cost the transactions that insert rows."""

    async def close(self) -> None:
        """Release its connection and its lock."""


class Looks:
    """
    The times at which an armed relay looks for rows of which no notification came.

    Both loops of the relay share them: a look of one serves the other. *clock* returns seconds
    that never go back.
    """

    def __init__(self, wakeup: Wakeup, *, clock: Callable[[], float]) -> None:
        self._wakeup = wakeup
        self._clock = clock
        self._next = float("-inf")

    def due_in(self) -> timedelta:
        """The time until the next look."""
        now = self._clock()
        return timedelta(seconds=max(self._next, now) - now)

    async def find_nothing(self) -> bool:
        """Look if it is time; returns whether an armed relay may leave out a claim."""
        if not self._wakeup.armed:
            return False
        began = self._clock()
        if began < self._next:
            return True
        self._next = began + LOOK_EVERY_SECONDS
        has_missed = await self._wakeup.has_missed()
        # While an old snapshot is open, a look reads all entries of deleted rows.
        ended = self._clock()
        self._next = max(self._next, ended + rest_after(ended - began))
        return not has_missed


class Polling:
    """For databases that cannot notify."""

    armed = False

    async def arm(self) -> bool:
        return False

    async def has_missed(self) -> bool:
        return True

    async def disarm(self) -> None:
        pass

    async def close(self) -> None:
        pass
