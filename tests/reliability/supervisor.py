"""
Supervises the processes of a run: starts a process again when it has ended.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from outbox.runtime.service import ExitCode
from tests.reliability.history import Leftover, Record
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY, PreparedProcess

START_SECONDS = 60.0
STOP_SECONDS = 45.0
INTERVAL_SECONDS = 0.1


def is_explained(status: int, *, has_worked: bool, was_killed: bool) -> bool:
    """
    Whether a process may have ended with *status* although it was not asked to end.

    Only if *was_killed* by the run, or if a server was unreachable at its start: a process that
    *has_worked* must wait for servers.
    """
    if status == -signal.SIGKILL:
        return was_killed
    return status == ExitCode.UNREACHABLE and not has_worked


class SupervisedProcess:
    """
    One process of the product, through all its starts.

    Args:
        role: The role that it shares with others: `relay`, or the name of a consumer.
        announces: The log event that it writes once it is ready.

    """

    def __init__(
        self,
        role: str,
        number: int,
        command: Sequence[str],
        *,
        announces: str,
        directory: Path,
        env: Mapping[str, str],
    ) -> None:
        self.role = role
        self.name = f"{role}-{number}"
        self.log = directory / f"{self.name}.log"
        self.should_run = False
        self.starts = 0
        self._announces = announces
        self._was_killed = False
        self._process = PreparedProcess(
            [sys.executable, "-m", *command], log=self.log, env=env, inherit=False, cwd=REPOSITORY
        )

    def start(self) -> None:
        """Start it; the supervisor restarts it whenever it ends."""
        self.should_run = True
        self.starts += 1
        self._was_killed = False
        self._process.start()

    async def wait_until_ready(self) -> None:
        """Wait until it has announced that it is ready."""

        def announced() -> bool:
            return self._process.running and self._has_worked

        await eventually(announced, within=START_SECONDS, message=f"{self.name} does not work")

    async def wait_for_line(self, words: str, *, within: float) -> None:
        """Wait for a line with *words* since its last start."""
        await self._process.wait_for_line(words, within=within)

    def kill(self) -> None:
        """Kill it (SIGKILL) if it runs; the supervisor restarts it."""
        if self._process.running:
            self._was_killed = True
            self._process.kill()

    async def terminate(self) -> int:
        """Terminate it (SIGTERM) and return its exit status; it is not restarted until `start`."""
        self.should_run = False
        status = self._process.exit_code or 0
        if self._process.running:
            status = await self._process.terminate(within=STOP_SECONDS)
        # Another fault may strike the same process meanwhile.
        return 0 if self._was_killed and status == -signal.SIGKILL else status

    def freeze(self) -> None:
        """Stop it (SIGSTOP), as if its machine hung."""
        self._process.freeze()

    def thaw(self) -> None:
        """Continue it (SIGCONT)."""
        self._process.thaw()

    def close(self) -> None:
        """End it now, and do not restart it."""
        self.should_run = False
        if self.starts:
            self._process.close()

    def restart_if_ended(self) -> int | None:
        """Restart it if it has ended; returns its exit status unless that is explained."""
        if not self.should_run or self._process.running:
            return None
        status = self._process.exit_code
        has_worked, was_killed = self._has_worked, self._was_killed
        self.start()
        if status is None or is_explained(status, has_worked=has_worked, was_killed=was_killed):
            return None
        return status

    @property
    def _has_worked(self) -> bool:
        """Whether it has announced that it is ready, since its last start."""
        return self._announces in self._process.output

    @property
    def pid(self) -> int | None:
        """The id of the process; None if it does not run."""
        return self._process.pid if self._process.running else None

    @property
    def output(self) -> str:
        """The output since its last start."""
        return self._process.output

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        return self._process.tail


class Supervisor:
    """Restarts *processes* that end during the block; *write* gets unexplained exits."""

    def __init__(
        self, processes: Sequence[SupervisedProcess], write: Callable[[Record], None]
    ) -> None:
        self.processes = processes
        self._write = write
        self._restarting: asyncio.Task[None] | None = None

    def __getitem__(self, role: str) -> list[SupervisedProcess]:
        return [process for process in self.processes if process.role == role]

    async def __aenter__(self) -> Self:
        self._restarting = asyncio.ensure_future(self._restart_ended())
        return self

    async def __aexit__(self, *_failure: object) -> None:
        if self._restarting is not None:
            self._restarting.cancel()
        for process in self.processes:
            process.close()

    async def start(self, *roles: str) -> None:
        """Start all processes with these *roles*, and wait until they are ready."""
        starting = [process for role in roles for process in self[role]]
        for process in starting:
            process.start()
        for process in starting:
            await process.wait_until_ready()

    async def stop(self) -> None:
        """Terminate all processes; an exit status other than 0 is recorded as a leftover."""
        ending = list(self.processes)
        for process, status in zip(
            ending, await asyncio.gather(*(each.terminate() for each in ending)), strict=True
        ):
            if status != ExitCode.STOPPED:
                self._note(process, f"ended with status {status}")

    async def _restart_ended(self) -> None:
        while True:
            for process in self.processes:
                if (status := process.restart_if_ended()) is not None:
                    self._note(process, f"ended unasked with status {status}")
            await asyncio.sleep(INTERVAL_SECONDS)

    def _note(self, process: SupervisedProcess, what: str) -> None:
        self._write(Leftover(time.time(), f"{process.name} {what}", 1))


def process_environment(**variables: str) -> dict[str, str]:
    """The environment of the test run without `MQ_` variables, and *variables*."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MQ_")}
    return {**inherited, **variables}
