"""
A simulated process that can be killed.

A kill is a SIGKILL: from that instant no request of the process reaches a server, the servers
close its connections, and its file locks are released. Its tasks are cancelled, so that they end;
their requests in `finally` blocks fail.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.reliability.simulation.fault_points import FaultAction, FaultPoints

Result = TypeVar("Result")

_TIDYING_SECONDS = 1.0


class KilledError(BaseException):
    """The process that makes the request was killed. No code of the product knows this error."""


class Process:
    """
    One process *name* of a *role*.

    Args:
        points: Records its steps, and injects faults at them.

    """

    def __init__(self, role: str, name: str, points: FaultPoints) -> None:
        self.role = role
        self.name = name
        self.points = points
        self.alive = True
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._at_death: list[Callable[[], None]] = []
        self._when_gone: list[Callable[[], None]] = []

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run *work* as this process; tasks that it creates belong to the process, too."""
        context = contextvars.copy_context()
        context.run(_CURRENT.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """*task* belongs to this process; that of a killed process may clean up, and ends soon."""
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        if not self.alive:
            task.get_loop().call_later(_TIDYING_SECONDS, task.cancel)

    def at_death(self, *callbacks: Callable[[], None]) -> None:
        """Call these when the process ends, for whatever reason."""
        self._at_death += callbacks

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call this when the process has ended and has no task left."""
        self._when_gone.append(callback)
        self._look()

    def kill(self) -> None:
        """Kill it (SIGKILL); after the end of its work this only closes its connections."""
        if not self.alive:
            return
        self.alive = False
        for callback in self._at_death:
            callback()
        for task in list(self._tasks):
            task.cancel()
        self._look()

    def check(self) -> None:
        """Raises KilledError if it was killed."""
        if not self.alive:
            raise KilledError

    def passing(self, step: str) -> bool:
        """
        Pass *step*; returns whether its connection is cut there.

        Raises KilledError if the process was killed before, or is killed there.
        """
        self.check()
        action = self.points.passing(self.role, self.name, step)
        if action is FaultAction.KILL:
            self.kill()
            raise KilledError
        return action is FaultAction.CUT

    def passing_unasked(self, step: str) -> bool:
        """The same for a *step* of the server that no task waits for."""
        try:
            return self.passing(step)
        except KilledError:
            return False

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            # Waiters get the exception; without one asyncio must not log that it was never read.
            task.exception()
        self._look()

    def _look(self) -> None:
        if not self.alive and not self._tasks:
            while self._when_gone:
                self._when_gone.pop()()


_CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current(context: contextvars.Context | None = None) -> Process | None:
    """The process of *context*, or of the running code; None for the simulation itself."""
    return _CURRENT.get() if context is None else context.get(_CURRENT)
