"""
Child processes of the tests: programs under test, and the servers they talk to.

Invariants:

- A child leads its own session, so that Ctrl-C reaches the tests only and a signal never hits
  a stranger; it is signalled by its id or by the id of its group.
- Its output goes to a file, never to a pipe without a reader, which would block it.
- It ends with its `async with`, and with the reaper if the tests die before that.
"""

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.support.eventually import eventually
from tests.support.fork_server import ForkedProcess, fork_server
from tests.support.reaper import reaper

REPOSITORY = Path(__file__).resolve().parents[2]
TAIL_LINES = 30


class ChildProcess:
    """
    One program that the test starts, watches and ends.

    Args:
        log: the file that collects standard output and standard error.
        env: variables added to those of the tests, or all of them if *inherit* is false.
        user: the account to run as; needs root.
        abrupt: the signal that ends it and all its own children at once.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        inherit: bool = True,
        cwd: Path = REPOSITORY,
        user: str | None = None,
        abrupt: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = log
        self._env = {**(os.environ if inherit else {}), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._user = user
        self._abrupt = abrupt
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._exit_code: int | None = None
        self._start_of_output = 0

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the program and return at once; a second start needs an end before it."""
        assert not self.running, f"{self.command} runs already"
        with self.log.open("ab") as output:
            self._start_of_output = output.tell()
            self._process = self._launch(output)
        self._exit_code = None
        reaper().watch(self._process.pid, ending=self._abrupt)

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self._started.pid

    @property
    def running(self) -> bool:
        """Whether the program is alive, frozen or not."""
        return self._process is not None and self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self._exit_code is None:
            self._exit_code = self._started.poll()
            if self._exit_code is not None:
                reaper().forget(self.pid)
        return self._exit_code

    @property
    def output(self) -> str:
        """All that it has written since its last start."""
        with self.log.open("rb") as written:
            written.seek(self._start_of_output)
            return written.read().decode(errors="replace")

    @property
    def tail(self) -> str:
        """The last lines of the output, for messages."""
        return "\n".join(self.output.splitlines()[-TAIL_LINES:])

    async def wait_for_line(self, substring: str, *, within: float = 15.0) -> str:
        """Return the first line with *substring*; fail at once if the program ends without."""

        def line_or_end() -> str | None:
            ended = not self.running  # asked first: the last words come before the end
            for line in self.output.splitlines():
                if substring in line:
                    return line
            assert not ended, f"{self._summary} before it wrote {substring!r}:\n{self.tail}"
            return None

        try:
            return await eventually(line_or_end, within=within)
        except AssertionError as late:
            late.add_note(f"awaited line: {substring!r}; the output ends with:\n{self.tail}")
            raise

    async def wait(self, *, within: float = 15.0) -> int:
        """Return the exit code once the program has ended by itself."""
        await eventually(
            lambda: not self.running, within=within, message=f"{self.command} did not end"
        )
        code = self.exit_code
        assert code is not None
        return code

    async def terminate(self, *, within: float = 15.0, by: signal.Signals = signal.SIGTERM) -> int:
        """
        Ask the program to end and return its exit code.

        One that has not ended *within* seconds is killed, and the test fails.
        """
        self.thaw()
        self._signal(by)
        try:
            return await self.wait(within=within)
        except AssertionError as late:
            late.add_note(f"killed after {by.name}; the output ends with:\n{self.tail}")
            self.close()
            raise

    def kill(self) -> None:
        """End the program by SIGKILL, as a machine short of memory would, and collect it."""
        self._signal(signal.SIGKILL)
        self._collect()

    def freeze(self) -> None:
        """Freeze the program as if its machine hung: connections stay open without replies."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen program go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End the program and its group now, frozen or not; nothing happens if it has ended."""
        if not self.running:
            return
        self._signal(self._abrupt)
        self.thaw()
        with suppress(subprocess.TimeoutExpired):
            self._started.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._collect()

    def _launch(self, output: IO[bytes]) -> subprocess.Popen[bytes] | ForkedProcess:
        return subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )

    def _collect(self) -> None:
        self._started.wait()
        assert self.exit_code is not None

    @property
    def _started(self) -> subprocess.Popen[bytes] | ForkedProcess:
        assert self._process is not None, f"{self.command} was not started"
        return self._process

    @property
    def _summary(self) -> str:
        return f"{self.command} ended with exit code {self.exit_code}"

    def _signal(self, number: signal.Signals) -> None:
        # Popen refuses to signal a process that it has collected, whose id may be another's.
        self._started.send_signal(number)


class PreparedProcess(ChildProcess):
    """A program of the product, `python -m MODULE …`, that begins with its imports done."""

    def _launch(self, output: IO[bytes]) -> ForkedProcess:
        _python, _m, module, *arguments = self.command
        log = Path(output.name)
        return fork_server().start(
            module, arguments, stdout=log, stderr=log, env=self._env, cwd=self._cwd
        )
