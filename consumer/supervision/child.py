"""
One process of the consumer, and the supervisor's end of the channel to it.

It stays in the process group of the supervisor, so that Ctrl-C and Ctrl-Z on a terminal reach all
of them, and it inherits standard error: its log lines need no process that hands them on.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, Self, TypeAlias

from consumer.supervised import VARIABLE, Report

FRESH_SECONDS = 5.0
"""A process whose last report is older is not ready: it is frozen, or gets no time of a core."""

ABORT_SECONDS = 3.0
"""Seconds in which an aborted process may end by itself; below those that the service grants."""


class Child(Protocol):
    """A process, as far as its slot and the supervisor need it."""

    pid: int
    report: Report | None
    """The last report; None before the first one."""

    @property
    def is_ready(self) -> bool:
        """Whether it has just reported that it waits for nothing."""

    async def read_reports(self) -> None:
        """Keep the last report up to date, until the process has closed its end."""

    async def wait(self) -> int:
        """Wait for its end; its exit code, negative for a signal."""

    def ask_to_stop(self) -> None:
        """Let it finish its work in flight, and end."""

    def kill(self) -> None:
        """End it at once."""

    async def abort(self) -> None:
        """Let it cancel its work in flight, and wait for its end."""


_Channel: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ChildProcess:
    """A process of the operating system; made by `start`."""

    def __init__(self, process: Process, channel: _Channel) -> None:
        self._process = process
        self._channel = channel
        self._reported_at = -FRESH_SECONDS
        self.pid = process.pid
        self.report: Report | None = None

    @classmethod
    async def start(
        cls, number: int, command: Sequence[str], variables: Mapping[str, str]
    ) -> Self:
        """
        Start *command* as the process of this *number*, with these environment *variables*.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=DEVNULL,
                    env={**variables, VARIABLE: f"{number}:{theirs.fileno()}"},
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, (reader, writer))

    @property
    def is_ready(self) -> bool:
        report = self.report
        is_fresh = time.monotonic() - self._reported_at < FRESH_SECONDS
        return report is not None and not report.missing and is_fresh

    async def read_reports(self) -> None:
        reader, writer = self._channel
        try:
            with suppress(OSError):
                async for line in reader:
                    self.report, self._reported_at = Report.from_line(line), time.monotonic()
        finally:
            writer.close()

    async def wait(self) -> int:
        return await self._process.wait()

    def ask_to_stop(self) -> None:
        _, writer = self._channel
        if self.report is None:
            # It imports, and has no work that a signal could cut off.
            self._signal(signal.SIGTERM)
        with suppress(OSError):
            writer.write_eof()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def abort(self) -> None:
        self.ask_to_stop()
        # The second signal aborts, and two of one kind may arrive as one.
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS):
                await self._process.wait()
        self.kill()
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The library refuses to signal a process that it has collected, whose id may be another's.
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def same_program() -> list[str]:
    """
    The command that runs this program, without its arguments.

    It has the options of the interpreter, and `-m` or the path of the script, as this process has:
    so all find the same modules.
    """
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def own_variables() -> dict[str, str]:
    """The environment of a process: its probes are on loopback, on any free port."""
    return {**os.environ, "MQ_METRICS_HOST": "127.0.0.1", "MQ_METRICS_PORT": "0"}
