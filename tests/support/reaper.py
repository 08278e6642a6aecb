"""
See to it that nothing started by the tests outlives them, even if they die by SIGKILL.

One helper process per test run reads, line by line, what the run has started and ended.
When the pipe closes, however the run came to its end, it ends what is still on the list.

A parent-death signal would not do: Linux binds it to the starting *thread*, and servers are
restarted from short-lived ones; other systems do not know it at all.

Invariant: only ids that the tests announced, and have not taken back, are ever signalled.
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
        # Its own session: Ctrl-C must reach the tests only, which then close the pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, pid: int, *, ending: signal.Signals = signal.SIGKILL) -> None:
        """End the process *pid* with the signal *ending* once the tests are gone."""
        self._tell(f"watch {pid} {ending.value}")

    def forget(self, pid: int) -> None:
        """Take *pid* off the list, because it has ended and the number may be given anew."""
        self._tell(f"forget {pid}")

    def adopt(self, directory: Path) -> None:
        """Remove *directory* with all it holds once the tests are gone."""
        self._tell(f"adopt {directory}")

    def mounted(self, directory: Path) -> None:
        """Unmount *directory* once the tests are gone."""
        self._tell(f"mounted {directory}")

    def close(self) -> None:
        """End what is left and wait until that is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write below PIPE_BUF is atomic, so that threads need no lock.
        os.write(self._process.stdin.fileno(), f"{line}\n".encode())


@functools.cache
def reaper() -> Reaper:
    """Return the guardian of this test run, started when first needed."""
    started = Reaper()
    atexit.register(started.close)

    return started


def keep_watch(lines: Iterable[str]) -> None:
    """Follow *lines* to their end, then end and remove what they leave open."""
    watched: dict[int, int] = {}
    places: dict[str, list[str]] = {"adopt": [], "mounted": []}
    for line in lines:
        match line.rstrip("\n").split(" ", maxsplit=2):
            case ["watch", pid, ending]:
                watched[int(pid)] = int(ending)
            case ["forget", pid]:
                watched.pop(int(pid), None)
            case ["adopt" | "mounted" as what, *words]:
                places[what].append(" ".join(words))

    for watched_pid, number in watched.items():
        _signal(watched_pid, number)
    _await_end(watched)
    _clear(mounts=places["mounted"], directories=places["adopt"])


def _clear(*, mounts: Iterable[str], directories: Iterable[str]) -> None:
    for mount in mounts:
        # One that the tests have unmounted themselves is no trouble.
        subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def process_exists(pid: int) -> bool:
    """
    Whether *pid* is a process that can still do something.

    One that has ended, but that nobody has collected yet, does not count: in a container without
    an init process orphans stay like that for ever.
    """
    asked = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(asked.stdout.strip()) and not asked.stdout.startswith("Z")


def _await_end(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    left = [pid for pid in pids if process_exists(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if process_exists(pid)]
    for pid in left:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    # All these processes lead a group; SIGKILL gives them no chance to end it themselves.
    deliver = os.killpg if number == signal.SIGKILL else os.kill
    with suppress(ProcessLookupError):
        deliver(pid, number)


if __name__ == "__main__":
    keep_watch(sys.stdin)
