"""
The processes of a run, started again when they end, as a supervisor of a deployment does.
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
from tests.reliability.history import Record, Residue
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY, PreparedProcess

START_SECONDS = 60.0
STOP_SECONDS = 45.0
LOOK_EVERY_SECONDS = 0.1


def is_explained(status: int, *, has_worked: bool, was_killed: bool) -> bool:
    """
    Whether a process may have ended with *status* although nobody had asked it to end.

    Only if *was_killed* by us, or if a server was away when it started: once it *has_worked*, it
    has to wait for servers.
    """
    if status == -signal.SIGKILL:
        return was_killed
    return status == ExitCode.UNREACHABLE and not has_worked


class Member:
    """
    One process of the product, through all its starts.

    Args:
        role: What others do as well: `relay`, or the name of a consumer.
        announces: What it says once it works.

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
        self.wanted = False
        self.starts = 0
        self._announces = announces
        self._was_killed = False
        self._process = PreparedProcess(
            [sys.executable, "-m", *command], log=self.log, env=env, inherit=False, cwd=REPOSITORY
        )

    def start(self) -> None:
        """Start it, and have it started again whenever it ends."""
        self.wanted = True
        self.starts += 1
        self._was_killed = False
        self._process.start()

    async def works(self) -> None:
        """Wait until it says that it works."""

        def announced() -> bool:
            return self._process.running and self._has_worked

        await eventually(announced, within=START_SECONDS, message=f"{self.name} does not work")

    async def says(self, words: str, *, within: float) -> None:
        """Wait until there is a line with *words* since its last start."""
        await self._process.wait_for_line(words, within=within)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs; it is started again soon."""
        if self._process.running:
            self._was_killed = True
            self._process.kill()

    async def terminate(self) -> int:
        """Ask it to end, and return its exit status; it stays ended until it is started."""
        self.wanted = False
        status = self._process.exit_code or 0
        if self._process.running:
            status = await self._process.terminate(within=STOP_SECONDS)
        # Another fault may strike the same process meanwhile.
        return 0 if self._was_killed and status == -signal.SIGKILL else status

    def freeze(self) -> None:
        """Stop it as if its machine hung."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self._process.thaw()

    def close(self) -> None:
        """End it now, for good."""
        self.wanted = False
        if self.starts:
            self._process.close()

    def tend(self) -> int | None:
        """Start it again if it has ended; returns its exit status if nothing explains that."""
        if not self.wanted or self._process.running:
            return None
        status = self._process.exit_code
        has_worked, was_killed = self._has_worked, self._was_killed
        self.start()
        if status is None or is_explained(status, has_worked=has_worked, was_killed=was_killed):
            return None
        return status

    @property
    def _has_worked(self) -> bool:
        """Whether it has said that it works, since its last start."""
        return self._announces in self._process.output

    @property
    def pid(self) -> int | None:
        """The id of the process, if it runs."""
        return self._process.pid if self._process.running else None

    @property
    def output(self) -> str:
        """What it has written since its last start."""
        return self._process.output

    @property
    def tail(self) -> str:
        """Its last lines."""
        return self._process.tail


class Crew:
    """The *members*, tended as long as the block goes on; *write* gets what is odd."""

    def __init__(self, members: Sequence[Member], write: Callable[[Record], None]) -> None:
        self.members = members
        self._write = write
        self._tending: asyncio.Task[None] | None = None

    def __getitem__(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    async def __aenter__(self) -> Self:
        self._tending = asyncio.ensure_future(self._tend())
        return self

    async def __aexit__(self, *_failure: object) -> None:
        if self._tending is not None:
            self._tending.cancel()
        for member in self.members:
            member.close()

    async def start(self, *roles: str) -> None:
        """Start all members with these *roles*, and return when they work."""
        starting = [member for role in roles for member in self[role]]
        for member in starting:
            member.start()
        for member in starting:
            await member.works()

    async def stop(self) -> None:
        """Ask all of them to end; what does not end well is written down."""
        ending = list(self.members)
        for member, status in zip(
            ending, await asyncio.gather(*(each.terminate() for each in ending)), strict=True
        ):
            if status != ExitCode.STOPPED:
                self._note(member, f"ended with status {status}")

    async def _tend(self) -> None:
        while True:
            for member in self.members:
                if (status := member.tend()) is not None:
                    self._note(member, f"ended unasked with status {status}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _note(self, member: Member, what: str) -> None:
        self._write(Residue(time.time(), f"{member.name} {what}", 1))


def environment(**variables: str) -> dict[str, str]:
    """That of the run, without anything that a developer has set for the product."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MQ_")}
    return {**inherited, **variables}
