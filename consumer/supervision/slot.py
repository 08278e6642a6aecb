"""
A place for one process: keeps one running under its number until it has to leave.
"""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias

from consumer.supervision.child import Child
from consumer.supervision.restarts import STEADY, Crashes, Ended, GiveUp, Restart, decide
from consumer.supervision.telemetry import Telemetry
from outbox.runtime.service import ExitCode

Start: TypeAlias = Callable[[int], Awaitable[Child]]
"""Starts the process of a number; raises OSError."""


LAST_REPORT_SECONDS = 1.0
"""How long a process that a handler started may hold the channel of a process that has ended."""


class Slot:
    """
    The place with this *number*, from 1 on; a process that ends is followed by another one.

    *others_ready* says whether the process of another place is ready. A process that was asked to
    stop has *deadline* to end, and is then killed.
    """

    def __init__(
        self,
        number: int,
        *,
        start: Start,
        crashes: Crashes,
        others_ready: Callable[["Slot"], bool],
        telemetry: Telemetry,
        deadline: timedelta,
    ) -> None:
        self.number = number
        self.leaving = asyncio.Event()
        self.child: Child | None = None
        self._start = start
        self._crashes = crashes
        self._others_ready = others_ready
        self._telemetry = telemetry
        self._deadline = deadline

    @property
    def is_ready(self) -> bool:
        """Whether its process is ready."""
        return self.child is not None and self.child.is_ready

    async def run(self) -> int | GiveUp:
        """
        Keep a process running until `leaving` is set; returns the exit code of the last one.

        Or the decision to give up, after which no process of it runs. A cancelled task aborts the
        process first.
        """
        attempt = 0
        while True:
            began = time.monotonic()
            code = await self._process()
            if self.leaving.is_set():
                self._telemetry.process_stopped(self.number, code)
                return code
            now = time.monotonic()
            lived = timedelta(seconds=now - began)
            attempt = 1 if lived >= STEADY else attempt + 1
            ended = Ended(code, lived, self._others_ready(self))
            decision = decide(ended, attempt, self._crashes, now)
            if isinstance(decision, GiveUp):
                self._telemetry.gave_up(self.number, code, decision.code)
                return decision
            self._telemetry.process_ended(self.number, code, pause=decision.pause)
            await self._wait(decision)
            if self.leaving.is_set():
                return ExitCode.STOPPED

    async def _process(self) -> int:
        """Run one process to its end; returns its exit code."""
        try:
            child = await self._start(self.number)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "")
            self._telemetry.process_not_started(self.number, reason)
            return ExitCode.CRASHED
        self.child = child
        self._telemetry.process_started(self.number, child.pid)
        reading = asyncio.ensure_future(child.read_reports())
        try:
            code = await self._until_end(child)
            # The last report may still be in the channel.
            await asyncio.wait({reading}, timeout=LAST_REPORT_SECONDS)
        except asyncio.CancelledError:
            await child.abort()
            raise
        finally:
            self.child = None
            reading.cancel()
        if child.report is not None and child.report.started:
            self._crashes.has_started = True
        return code

    async def _until_end(self, child: Child) -> int:
        ended = asyncio.ensure_future(child.wait())
        leaving = asyncio.ensure_future(self.leaving.wait())
        try:
            await asyncio.wait({ended, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            child.ask_to_stop()
            await asyncio.wait({ended}, timeout=self._deadline.total_seconds())
            if ended.done():
                return ended.result()
            child.kill()
            self._telemetry.process_killed(self.number)
            await ended
            return ExitCode.DRAIN_DEADLINE
        finally:
            ended.cancel()
            leaving.cancel()

    async def _wait(self, restart: Restart) -> None:
        leaving = asyncio.ensure_future(self.leaving.wait())
        try:
            await asyncio.wait({leaving}, timeout=restart.pause.total_seconds())
        finally:
            leaving.cancel()
