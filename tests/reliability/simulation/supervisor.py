"""
Supervises the processes of a simulated system: starts, kills and stops them.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from outbox.errors import Unavailable
from tests.reliability.checker import Finding
from tests.reliability.simulation.fault_points import FaultPoints
from tests.reliability.simulation.process import KilledError, Process

START_SECONDS = 60.0
"""A server that is away may end a process that has just been started; never one that works."""
DRAIN_SECONDS = 25.0
_RESTART_SECONDS = 1.0

Service = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Running:
    """A process that works until *stop* is set."""

    process: Process
    task: asyncio.Task[None]
    stop: asyncio.Event
    since: float


class Supervisor:
    """
    Processes by name.

    Args:
        services: The coroutine function of each process.
        roles: Their roles.

    """

    def __init__(
        self, services: dict[str, Service], roles: dict[str, str], points: FaultPoints
    ) -> None:
        self.findings: list[Finding] = []
        self.kills = 0
        self._services = services
        self._roles = roles
        self._points = points
        self._running: dict[str, Running] = {}
        self._is_dismissed = False

    @property
    def names(self) -> list[str]:
        """The names of all processes, running or not."""
        return list(self._services)

    def process(self, name: str) -> Process | None:
        """The process *name*, if it runs."""
        running = self._running.get(name)
        return running.process if running and running.process.alive else None

    def start(self, name: str) -> None:
        """Start it, unless it runs."""
        if self._is_dismissed or self.process(name) is not None:
            return
        process = Process(self._roles[name], name, self._points)
        stop = asyncio.Event()
        task = process.start(self._services[name](stop))
        self._running[name] = Running(process, task, stop, _now())
        task.add_done_callback(lambda _: self._over(name, process, task))

    def kill(self, name: str) -> None:
        """Kill it (SIGKILL)."""
        if (process := self.process(name)) is not None:
            self.kills += 1
            process.kill()

    def crash(self, name: str) -> None:
        """Kill it, and start it again, as a process manager does."""
        self.kill(name)
        asyncio.get_running_loop().call_later(_RESTART_SECONDS, self.start, name)

    async def stop(self, name: str) -> None:
        """Terminate it (SIGTERM): it finishes its work in flight, or is killed at a deadline."""
        if self.process(name) is None:
            return
        running = self._running[name]
        running.stop.set()
        done, _ = await asyncio.wait({running.task}, timeout=DRAIN_SECONDS)
        self.kills += not done
        running.process.kill()

    async def dismiss(self) -> None:
        """Kill all processes for good, and wait for their tasks."""
        self._is_dismissed = True
        for name in self._services:
            self.kill(name)
        tasks = {running.task for running in self._running.values()}
        if tasks:
            await asyncio.wait(tasks)

    def _over(self, name: str, process: Process, task: asyncio.Task[None]) -> None:
        if not process.alive or task.cancelled():
            return
        error = first_of(task.exception())
        ran = _now() - self._running[name].since
        process.kill()
        if error is None or isinstance(error, KilledError):
            return
        if not isinstance(error, Unavailable) or ran > START_SECONDS:
            self.findings.append(Finding("crash", f"{name} after {ran:.3f} s: {error!r}"))
        asyncio.get_running_loop().call_later(_RESTART_SECONDS, self.start, name)


def first_of(error: BaseException | None) -> BaseException | None:
    """The first error of a group: one failure ends the other tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _now() -> float:
    return asyncio.get_running_loop().time()
