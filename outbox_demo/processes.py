"""
The child processes of a run: start, kill, restart, read metrics, stop.

The demo signals them by their own ids, and only while they are its children. No child runs longer
than its `async with`.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from outbox_demo import probe

EXIT_WITH_PARENT = "outbox_demo.exit_with_parent"

_TAIL_LINES = 12
_EXIT_SECONDS = 10.0


class Child:
    """
    One program: a Python module with its arguments.

    Args:
        name: Its name in the output of the demo.
        log: The file to which its output is appended.

    """

    def __init__(self, name: str, *program: str, log: Path) -> None:
        self.name = name
        self._program = program
        self._log = log
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the program, or start it again after it has ended."""
        with self._log.open("ab") as output:
            self._log_start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", EXIT_WITH_PARENT, str(os.getpid()), *self._program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its children
            )

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs and before its start."""
        return None if self._process is None else self._process.returncode

    async def kill(self) -> None:
        """Kill the program with SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def stop(self, *, within: float) -> int:
        """Stop the program with SIGTERM, or SIGKILL after *within* seconds; its exit code."""
        if self._process is None:
            return 0
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await self._process.wait()
        await self.kill()
        return self._process.returncode or -signal.SIGKILL

    @property
    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._lines()[-_TAIL_LINES:])

    async def ready(self) -> bool:
        """Whether its readiness probe succeeds."""
        return (await self._get("/readyz"))[0] == probe.OK

    async def metric(self, name: str) -> int:
        """The value of its metric *name*, summed over labels; 0 if it has none."""
        status, text = await self._get("/metrics")
        if status != probe.OK:
            return 0
        return probe.total(text, name)

    async def _get(self, path: str) -> tuple[int, str]:
        port = self._port()
        if port is None or self.exit_code is not None:
            return 0, ""
        return await asyncio.to_thread(probe.get, port, path)

    def _port(self) -> int | None:
        """The port of its probes, from its log since the last start."""
        for line in self._lines():
            if '"probes_listening"' in line:
                return int(json.loads(line)["port"])
        return None

    def _lines(self) -> list[str]:
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()


class ChildFailed(Exception):  # noqa: N818 - it names a thing
    """A child ended unexpectedly; the message has its exit code and the end of its log."""

    def __init__(self, child: Child) -> None:
        super().__init__(f"{child.name} ended with exit code {child.exit_code}:\n{child.tail}")


class Processes:
    """Child processes that are started and stopped together."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = children

    async def __aenter__(self) -> Self:
        try:
            for child in self.children:
                await child.start()
        except BaseException:
            await self.stop(within=0)
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop(within=_EXIT_SECONDS)

    async def stop(self, *, within: float) -> dict[str, int]:
        """Stop all within *within* seconds; returns their exit codes by name."""
        codes = await asyncio.gather(*(child.stop(within=within) for child in self.children))
        return {child.name: code for child, code in zip(self.children, codes, strict=True)}
