"""
Virtual time: an event loop that never waits, and clocks that follow it.

There are two clocks, as on any machine. The loop's is monotonic. The wall clock is the same plus
the time that was skipped; `datetime.now` and the simulated databases show it.
"""

import asyncio
import itertools
import selectors
from collections.abc import Coroutine, Generator
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

from tests.reliability.simulation.process import current

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class StandstillError(RuntimeError):
    """No callback can run, and no timer is set: the simulation would never end."""


class _Jump(selectors.SelectSelector):
    """Stands in for the selector: advances the time instead of waiting."""

    def __init__(self, loop: "SimulatedLoop") -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise StandstillError
        if timeout > 0:
            self._loop.advance(timeout)
        return []


class NumberedTask(asyncio.Task[Any]):
    """
    A task that is ordered by its creation.

    By default a set orders tasks by address, and a task group cancels its tasks in set order.
    """

    numbers = itertools.count()

    def __init__(self, *args: Any, **options: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs callbacks in the order of their times, and at equal times in the order of creation."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._skipped = timedelta(0)
        self._wall = time_machine.travel(BEGINNING, tick=False)
        self._coordinates: Any = None
        super().__init__(_Jump(self))
        self.set_task_factory(_numbered)

    def time(self) -> float:
        """Seconds since the start."""
        return self._seconds

    @property
    def now(self) -> datetime:
        """The time of the wall clock."""
        return BEGINNING + timedelta(seconds=self._seconds) + self._skipped

    def advance(self, seconds: float) -> None:
        """Advance the time; timers in between fire late."""
        self._seconds += seconds
        self._tell()

    def skip(self, duration: timedelta) -> None:
        """Move the wall clock forward; timers do not change."""
        self._skipped += duration
        self._tell()

    def start_clock(self) -> None:
        """Make `datetime.now` and `time.time` show the time of this loop."""
        self._coordinates = self._wall.start()

    def stop_clock(self) -> None:
        """Restore the real clock."""
        if self._coordinates is not None:
            self._coordinates = None
            self._wall.stop()

    def _tell(self) -> None:
        if self._coordinates is not None:
            self._coordinates.move_to(self.now)


def _numbered(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    *,
    context: Context | None = None,
) -> asyncio.Task[Any]:
    task = NumberedTask(coroutine, loop=loop, context=context)
    process = current(context)
    if process is not None:
        process.adopt(task)
    return task


async def pass_time(seconds: float) -> None:
    """Let simulated time pass, without waiting."""
    await asyncio.sleep(seconds)
