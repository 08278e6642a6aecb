"""
The output of commands: a failure to write it ends the process with a line, and no traceback.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TextIO, cast

from outbox.runtime.service import ExitCode

PIPE_CLOSED = 128 + signal.SIGPIPE
"""The exit code that shells show for a program whose reader has closed the pipe."""
INTERRUPTED = 128 + signal.SIGINT
"""The exit code that shells show for a program that Ctrl-C has ended."""


class OutputFailed(Exception):  # noqa: N818 - it names what happened
    """
    Standard output cannot be written, for *reason*.

    It is no OSError, which would count as the failure of a server.
    """

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
        super().__init__()


class _Output:
    """A stream whose failures are OutputFailed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputFailed(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputFailed(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_command(command: Callable[[], object]) -> None:
    """
    Run *command*; if its output cannot be written, end the process.

    A closed pipe is no error of ours: the process says nothing, and exits like one that the signal
    SIGPIPE has ended. Any other failure is a line, and exit code 1. Ctrl-C ends it without a
    traceback.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:  # the process was started without one
        command()
        return
    sys.stdout = cast("TextIO", _Output(stream))
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except OutputFailed as error:
        _end(stream, error.reason)
    except KeyboardInterrupt:  # before the command handles signals
        raise SystemExit(INTERRUPTED) from None


def _end(stream: TextIO, reason: OSError) -> NoReturn:
    with suppress(OSError):
        # Python writes what is left in the buffer at exit, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if reason.errno == errno.EPIPE:
        raise SystemExit(PIPE_CLOSED) from None
    problem = os.strerror(reason.errno) if reason.errno else type(reason).__name__
    print(f"error: standard output: cannot be written: {problem}", file=sys.stderr)  # noqa: T201
    raise SystemExit(ExitCode.CRASHED) from None
