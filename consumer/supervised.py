"""
A process that a supervisor has started: it reports its work, and stops when it is asked to.

Both hold one end of a channel. The process writes a report each second. The supervisor writes
nothing: it closes its side to ask for a stop. The kernel closes that side too when the supervisor
ends, however it ends, so that no process is left behind.

    the supervisor                            the process
    closes its side                           drains and ends, as after SIGTERM
    is killed, at any moment                  the same: it reads the end of the channel
    is killed while the process imports       reads the end at its start, and stops
    hangs                                     works on; only its reports wait

A signal to the process itself asks for the same, and both together count once: a service manager
may send SIGTERM to all processes of a unit.
"""

import asyncio
import json
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Self

from outbox.errors import ConfigurationError
from outbox.runtime import log_context, logs
from outbox.runtime.figures import Figures
from outbox.runtime.probes import Health
from outbox.runtime.service import ABORT_SECONDS, ExitCode

VARIABLE = "OUTBOX_SUPERVISED"
"""The variable with the number of the process and the file descriptor of its end."""

EVENT_LOOP = "event loop"
REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """
    The state of a process.

    Args:
        handled: Deliveries that it has settled since its start.
        missing: The dependencies that it waits for, and its event loop while a handler blocks it;
            empty when it is ready.
        port: The port of its probes on loopback; None if it serves none.
        started: Whether it has begun to take messages.

    """

    handled: int
    missing: tuple[str, ...]
    port: int | None
    started: bool = False

    def to_line(self) -> bytes:
        """The report as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of(cls, health: Health, figures: Figures, port: int | None) -> Self:
        """The report of the process that has this *health* and these *figures*."""
        # Only a process that serves probes measures whether its event loop runs.
        is_stalled = port is not None and not health.alive
        missing = (*health.missing, *([EVENT_LOOP] if is_stalled else []))
        return cls(figures.total, missing, port)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The report in a *line* of `to_line`."""
        values = json.loads(line)
        missing = tuple(values["missing"])
        return cls(values["handled"], missing, values["port"], values["started"])


class Supervision:
    """
    The end of the channel that the process holds.

    If the process has not ended within *deadline* after it was asked to stop, because its event
    loop or a thread hangs, *end* ends it with DRAIN_DEADLINE.
    """

    def __init__(
        self,
        channel: socket.socket,
        *,
        deadline: timedelta,
        end: Callable[[int], object],
    ) -> None:
        self._channel = channel
        self._deadline = deadline
        self._end = end
        self._report: Callable[[], Report] | None = None
        self._has_started = False
        self._sending = threading.Lock()

    def started(self) -> None:
        """
        Report that the process takes messages from now on.

        It returns when the system has the report: so the supervisor gets it even if the first
        message ends the process.
        """
        self._has_started = True
        with suppress(OSError):
            self._send()

    @asynccontextmanager
    async def followed(
        self, stop: asyncio.Event, report: Callable[[], Report]
    ) -> AsyncIterator[None]:
        """Send reports while the block runs, and set *stop* when the channel ends."""
        loop = asyncio.get_running_loop()
        self._report = report

        def ask_to_stop() -> None:
            if not stop.is_set():
                logs.get("supervised").info("stop_requested")
                stop.set()

        def follow() -> None:
            self._report_until_closed()
            with suppress(RuntimeError):  # the loop is closed: the process ends already
                loop.call_soon_threadsafe(ask_to_stop)
            threading.Event().wait(self._deadline.total_seconds())
            self._end(ExitCode.DRAIN_DEADLINE)

        # A thread, so that a blocked event loop does not keep the process alive. It is not joined,
        # since it also ends a process whose other threads hang at its exit.
        threading.Thread(target=follow, daemon=True).start()
        yield

    def _report_until_closed(self) -> None:
        with suppress(OSError):
            while True:
                self._send()
                readable, _, _ = select.select([self._channel], [], [], REPORT_SECONDS)
                if readable and not self._channel.recv(1):
                    return

    def _send(self) -> None:
        if self._report is None:
            return
        with self._sending:
            report = replace(self._report(), started=self._has_started)
            self._channel.sendall(report.to_line())


def followed(
    supervision: Supervision | None, stop: asyncio.Event, report: Callable[[], Report]
) -> AbstractAsyncContextManager[None]:
    """The block in which the supervisor is followed, if the process has one."""
    return nullcontext() if supervision is None else supervision.followed(stop, report)


def supervision(variables: MutableMapping[str, str], *, drain: timedelta) -> Supervision | None:
    """
    The end of the channel that *variables* name; None without a supervisor.

    It removes the variable, which is not for processes that handlers start, and adds the number of
    the process to all log lines. Raises ConfigurationError unless a supervisor has set it.
    """
    given = variables.pop(VARIABLE, None)
    if given is None:
        return None
    try:
        number, descriptor = map(int, given.split(":"))
        channel = socket.socket(fileno=descriptor)
    except (ValueError, OSError):
        raise ConfigurationError(
            f"{VARIABLE}: only `consumer run --processes` sets it: unset it"
        ) from None
    channel.set_inheritable(False)
    log_context.bind(process_number=number)
    return Supervision(
        channel, deadline=drain + 2 * timedelta(seconds=ABORT_SECONDS), end=os._exit
    )
