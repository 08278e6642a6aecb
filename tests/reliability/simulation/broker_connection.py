"""
A connection to the simulated broker: messages keep their order in each direction, and take time.
"""

import asyncio
from collections.abc import Callable

from outbox.errors import BrokerUnavailable
from tests.reliability.simulation.process import Process

LOST = "the connection was lost"
_TICK = 1e-6
"""Seconds between two things that go the same way."""


class BrokerConnection:
    """
    A connection of *process*; without a process no fault is injected on it.

    Args:
        delay: Draws the seconds that the next message travels.

    """

    def __init__(self, process: Process | None, *, delay: Callable[[], float]) -> None:
        self.process = process
        self.is_open = True
        self.at_end: list[Callable[[], None]] = []
        self._delay = delay
        self._arrivals = {"up": 0.0, "down": 0.0}

    def cut(self) -> None:
        """End the connection; messages on their way are lost."""
        if self.is_open:
            self.is_open = False
            for callback in self.at_end:
                callback()

    def check(self) -> None:
        """
        Raises BrokerUnavailable if the connection has ended, and KilledError if the process has.
        """
        if self.process is not None:
            self.process.check()
        if not self.is_open:
            raise BrokerUnavailable(LOST)

    def passing(self, step: str) -> None:
        """Pass a *step*, where a fault may be injected; raises as `check` does."""
        if self.process is not None and self.process.passing(step):
            self.cut()
        self.check()

    async def go(self, step: str) -> None:
        """Send a request to the broker, and return when it has arrived."""
        self.check()
        await asyncio.sleep(self._way("up"))
        self.passing(f"{step}.sent")

    async def hear(self, step: str) -> None:
        """Wait for the broker's reply."""
        self.passing(f"{step}.answered")
        await asyncio.sleep(self._way("down"))
        self.check()

    def post(self, work: Callable[[], None], step: str | None = None) -> None:
        """Make the broker do *work* when this message arrives, without waiting for a reply."""
        self.check()
        self._later("up", work, step)

    def deliver(self, work: Callable[[], None]) -> None:
        """Make the client do *work* when this message arrives."""
        self._later("down", work, None)

    async def flushed(self) -> None:
        """Wait until every posted message has arrived or is lost."""
        if self.is_open:
            await asyncio.sleep(self._way("up"))

    def _later(self, way: str, work: Callable[[], None], step: str | None) -> None:
        def arrive() -> None:
            if not self.is_open:
                return
            work()
            if step is not None and self.process is not None and self.process.alive:
                self._note(step)

        asyncio.get_running_loop().call_later(self._way(way), arrive)

    def _note(self, step: str) -> None:
        process = self.process
        if process is not None and process.passing_unasked(f"{step}.answered"):
            self.cut()

    def _way(self, way: str) -> float:
        """Seconds until a message sent now arrives, after all earlier ones."""
        now = asyncio.get_running_loop().time()
        arrival = max(now + self._delay(), self._arrivals[way] + _TICK)
        self._arrivals[way] = arrival
        return arrival - now
