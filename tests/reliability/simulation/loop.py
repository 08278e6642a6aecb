"""
Virtual time: an event loop that never waits, and clocks that follow it.

Two clocks, as on any machine. The loop's is monotonic; the wall clock is the same plus what has
been skipped, and is what `datetime.now` and the simulated databases tell.
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
    """Nothing can run, and nothing is waited for: the simulation would never end."""


class _Jump(selectors.SelectSelector):
    """Lets the time jump instead of waiting; there is nothing that could be ready before."""

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
    A task that sets order by when it was made.

    By default they order by addresses, and a group cancels its tasks in the order of a set.
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
    """Runs callbacks in the order of their times, and of two at a time the earlier first."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._skipped = timedelta(0)
        self._wall = time_machine.travel(BEGINNING, tick=False)
        self._coordinates: Any = None
        super().__init__(_Jump(self))
        self.set_task_factory(_numbered)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._seconds

    @property
    def now(self) -> datetime:
        """What a clock on the wall tells."""
        return BEGINNING + timedelta(seconds=self._seconds) + self._skipped

    def advance(self, seconds: float) -> None:
        """Have the time jump; whatever should have happened meanwhile happens late."""
        self._seconds += seconds
        self._tell()

    def skip(self, duration: timedelta) -> None:
        """Put all clocks on the wall forward; nobody's timers notice."""
        self._skipped += duration
        self._tell()

    def start_clock(self) -> None:
        """From now on `datetime.now` and `time.time` tell the time of this loop."""
        self._coordinates = self._wall.start()

    def stop_clock(self) -> None:
        """Give the world its clock back."""
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
    """Let so much simulated time pass; nobody waits for it."""
    await asyncio.sleep(seconds)
