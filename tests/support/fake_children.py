"""
Processes and a queue for a supervisor, which a test moves.
"""

import asyncio
import itertools
import signal

from consumer.supervised import Report
from outbox.errors import BrokerUnavailable
from outbox.runtime.service import ExitCode

PIDS = itertools.count(1)


class FakeChild:
    """A process that is ready at once, and ends as the test says."""

    def __init__(self, number: int, *, drains: bool = True, missing: tuple[str, ...] = ()) -> None:
        self.number = number
        self.pid = next(PIDS)
        self.report = Report(0, missing, 8000 + number)
        self.asked = self.killed = self.aborted = False
        self._drains = drains
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_ready(self) -> bool:
        return not self.report.missing

    def end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    async def read_reports(self) -> None:
        await self.wait()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def ask_to_stop(self) -> None:
        self.asked = True
        if self._drains:
            self.end(0)

    def kill(self) -> None:
        self.killed = True
        self.end(-signal.SIGKILL)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    async def abort(self) -> None:
        self.aborted = True
        self.end(ExitCode.DRAIN_DEADLINE)


class Backlog:
    """A queue with as many messages as the test says; None while the broker is unavailable."""

    def __init__(self, messages: int | None) -> None:
        self.messages = messages

    async def waiting(self) -> int:
        if self.messages is None:
            raise BrokerUnavailable("unreachable")
        return self.messages
