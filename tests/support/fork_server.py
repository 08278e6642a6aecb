"""
Starts processes with the modules of the product already imported, in a tenth of the time.

One server per test run imports them once, and forks a child for each program to be run.
A child has files, environment, session and signals of its own, like a new interpreter.
The server collects its children: it writes the exit status of each to a file.

Invariant: the server never has a second thread, so that a fork leaves no lock behind.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import intervals

MODULES = (
    "asyncpg",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "alembic.command",
    "rich.console",
    "rich.progress",
    "rich.table",
    "typer.rich_utils",
    "outbox.database.migrate",
    "outbox.database.postgres_engine",
    "outbox.database.sqlite_engine",
    "outbox.transports.rabbitmq.transport",
    "outbox.transports.sqlite.transport",
    "relay.cli",
    "relay.service",
    "relay.storage.postgres",
    "relay.storage.postgres_notify",
    "relay.storage.sqlite",
    "consumer.cli",
    "consumer.service",
    "consumer.execution.driver_unit_of_work",
    "uvloop",
)
PAUSE_SECONDS = 0.005


class ForkServer:
    """The client's end: starts children, and reads their exit status."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", __spec__.name, self._directory.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Consoles take their width from these when they are imported.
            env={k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}},
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        stdout: Path,
        stderr: Path,
        env: Mapping[str, str],
        cwd: Path,
    ) -> "ForkedProcess":
        """Run `python -m module arguments`; its output is appended to the two files."""
        order = [module, *arguments], str(stdout), str(stderr), dict(env), str(cwd)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
        return ForkedProcess(pid, status=Path(self._directory.name) / str(pid))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.cleanup()


@functools.cache
def fork_server() -> ForkServer:
    """Return the server of this test run, started when first needed."""
    started = ForkServer()
    atexit.register(started.close)
    return started


class ForkedProcess:
    """A child of the server, with the methods of `subprocess.Popen` that the tests need."""

    def __init__(self, pid: int, *, status: Path) -> None:
        self.pid = pid
        self._status = status
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._status.exists():
            self._code = int(self._status.read_text())
            self._status.unlink()  # the kernel may use the number again
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(PAUSE_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def serve(directory: Path) -> None:
    """Fork a child for each line of standard input, until its end."""
    for module in MODULES:
        importlib.import_module(module)
    # The kernel wakes select with each ended child: a handler in Python would not run while the
    # server waits for a line, if the child ended just before that.
    ended, writes = os.pipe()
    for end in (ended, writes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    while True:
        ready, _, _ = select.select([sys.stdin, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            collect(directory)
        if sys.stdin in ready:
            # The client writes one line, and waits for the answer.
            line = sys.stdin.readline()
            if not line:
                return
            pid = os.fork()
            if not pid:
                run(*json.loads(line))
            print(pid, flush=True)  # noqa: T201


def collect(directory: Path) -> None:
    """Write the exit status of each ended child to a file; negative for a signal."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            written = directory / f"{pid}.new"
            written.write_text(str(os.waitstatus_to_exitcode(status)))
            written.rename(directory / str(pid))


def run(command: list[str], stdout: str, stderr: str, env: dict[str, str], cwd: str) -> None:
    """Become *command*, and never return."""
    code: Any = 1
    try:
        become(stdout, stderr, env, cwd)
        intervals.shorten()
        sys.argv = command
        sys.path[:1] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def become(stdout: str, stderr: str, env: dict[str, str], cwd: str) -> None:
    signal.set_wakeup_fd(-1)
    os.setsid()
    appending = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    opened = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(stdout, appending),
        os.open(stderr, appending),
    )
    for target, source in enumerate(opened):
        os.dup2(source, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
