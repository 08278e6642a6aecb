"""
Commands of the product, run to their end, and all that they print.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.fork_server import fork_server
from tests.support.processes import REPOSITORY

DEADLINE_SECONDS = 60.0


class Ended(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """
    Run commands in *directory*, with no variable of the tests but *settings*.

    Each is a process of its own that begins with its imports done; `python -m MODULE` and the
    console scripts are tested in test_cli.py.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.settings = {"PATH": "", "PYTHONPATH": str(REPOSITORY), **settings}
        self.printed = ""

    def __call__(self, *command: str, device: Path | None = None, **settings: str) -> Ended:
        """Run `python -m *command*`, with further *settings*; it prints to *device* if given."""
        module, *arguments = command
        with tempfile.TemporaryDirectory() as name:
            out, err = Path(name, "out"), Path(name, "err")
            child = fork_server().start(
                module,
                arguments,
                stdout=device or out,
                stderr=err,
                env={**self.settings, **settings},
                cwd=self.directory,
            )
            try:
                code = child.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                raise
            printed = "" if device is not None else out.read_text()
            ended = Ended(code, printed, err.read_text())
        self.printed += ended.out + ended.err
        return ended

    async def run(self, *command: str, **settings: str) -> Ended:
        """Run a command while the event loop of the test goes on."""
        return await asyncio.to_thread(self, *command, **settings)
