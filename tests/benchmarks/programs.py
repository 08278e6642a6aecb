"""
Programs that are measured from outside: their output, and their use of CPU and memory.

Linux only: usage is read from /proc, at no cost for the measured program.
"""

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import processes
from tests.support.processes import ChildProcess

START_SECONDS = 60.0

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/<pid>/stat, counted from the one after the name in parentheses.
_USER, _SYSTEM, _RESIDENT = 11, 12, 21


class Program:
    """
    A child process that announces when it is ready, and ends with the block.

    Args:
        ready: The text of the line that announces it; empty if nothing does.
        is_foreign: Whether it runs with another interpreter than this one, or none.

    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        directory: Path,
        ready: str,
        is_foreign: bool = False,
    ) -> None:
        start = processes.ChildProcess if is_foreign else ChildProcess
        self._child = start(command, log=log, env=environment, inherit=False, cwd=directory)
        self._ready = ready
        self.announces_itself = bool(ready)
        """Whether the block begins with its line, not before."""
        self.started_at = 0.0
        """When it was started, by the monotonic clock."""

    async def __aenter__(self) -> Self:
        self.started_at = time.monotonic()
        self._child.start()
        if self.announces_itself:
            await self.said(self._ready, within=START_SECONDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._child.close()

    async def said(self, words: str, *, within: float) -> str:
        """The first line with *words*; fails if the program ends or *within* seconds pass."""
        return await self._child.wait_for_line(words, within=within)

    async def ended(self, *, within: float) -> str:
        """The output of the program, once it has ended by itself."""
        code = await self._child.wait(within=within)
        if code:
            raise ProgramFailedError(self._child.command, self._child.tail)
        return self._child.output

    def check(self) -> None:
        """Raises ProgramFailedError if the program has ended."""
        if not self._child.running:
            raise ProgramFailedError(self._child.command, self._child.tail)

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far, of all threads, in steps of 10 ms."""
        stat = self._stat()
        return (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS_PER_SECOND

    @property
    def resident_bytes(self) -> int:
        """The resident memory of the program."""
        return int(self._stat()[_RESIDENT]) * _PAGE_BYTES

    def _stat(self) -> list[str]:
        return Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()


@asynccontextmanager
async def together(programs: Sequence[Program]) -> AsyncIterator[None]:
    """All of *programs* run during the block."""
    async with AsyncExitStack() as stack:
        for program in programs:
            await stack.enter_async_context(program)
        yield


class ProgramFailedError(Exception):
    """A measured program has ended too early, or with an error."""

    def __init__(self, command: Sequence[str], tail: str) -> None:
        super().__init__(f"{' '.join(command[1:])} ended; it wrote last:\n{tail}")
