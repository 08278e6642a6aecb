"""
Makes sure that no process or directory of the tests outlives them, even after a SIGKILL.

One helper process per test run reads, line by line, which processes the run has started and ended.
When the pipe closes, for whatever reason, the helper ends the processes still on its list.

A parent-death signal does not suffice: Linux binds it to the starting *thread*, and servers are
restarted from short-lived threads; other systems do not have it.

Invariant: the reaper signals only ids that the tests have announced and not withdrawn.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 5.0


class Reaper:
    """The test run's end of the pipe."""

    def __init__(self) -> None:
        # In its own session: Ctrl-C must reach the tests only, which then close the pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, pid: int, *, ending: signal.Signals = signal.SIGKILL) -> None:
        """End the process *pid* with the signal *ending* once the tests have ended."""
        self._send(f"watch {pid} {ending.value}")

    def forget(self, pid: int) -> None:
        """Remove *pid* from the list: it has ended, and the system may reuse the number."""
        self._send(f"forget {pid}")

    def adopt(self, directory: Path) -> None:
        """Remove *directory* and its contents once the tests have ended."""
        self._send(f"adopt {directory}")

    def mounted(self, directory: Path) -> None:
        """Unmount *directory* once the tests have ended."""
        self._send(f"mounted {directory}")

    def close(self) -> None:
        """End the processes that are left, and wait until they have ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write below PIPE_BUF is atomic, so that threads need no lock.
        os.write(self._process.stdin.fileno(), f"{line}\n".encode())


@functools.cache
def reaper() -> Reaper:
    """Return the reaper of this test run; the first call starts it."""
    started = Reaper()
    atexit.register(started.close)

    return started


def follow(lines: Iterable[str]) -> None:
    """Read *lines* to their end, then end the processes and remove the directories on the list."""
    watched: dict[int, int] = {}
    directories: dict[str, list[str]] = {"adopt": [], "mounted": []}
    for line in lines:
        match line.rstrip("\n").split(" ", maxsplit=2):
            case ["watch", pid, ending]:
                watched[int(pid)] = int(ending)
            case ["forget", pid]:
                watched.pop(int(pid), None)
            case ["adopt" | "mounted" as kind, *words]:
                directories[kind].append(" ".join(words))

    for watched_pid, number in watched.items():
        _signal(watched_pid, number)
    _await_end(watched)
    _clear(mounts=directories["mounted"], directories=directories["adopt"])


def _clear(*, mounts: Iterable[str], directories: Iterable[str]) -> None:
    for mount in mounts:
        # The tests may have unmounted it already.
        subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def process_exists(pid: int) -> bool:
    """
    Whether *pid* is a running process.

    A zombie does not count: in a container without an init process no parent ever collects it.
    """
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")


def _await_end(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    left = [pid for pid in pids if process_exists(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if process_exists(pid)]
    for pid in left:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    # Each of these processes leads a group; after a SIGKILL it cannot end the group itself.
    deliver = os.killpg if number == signal.SIGKILL else os.kill
    with suppress(ProcessLookupError):
        deliver(pid, number)


if __name__ == "__main__":
    follow(sys.stdin)
