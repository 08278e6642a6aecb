"""
Running a command so that a signal ends it cleanly.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from outbox.cli.console import once
from outbox.runtime.service import ExitCode

Result = TypeVar("Result")


def run_interruptible(work: Callable[[asyncio.Event], Awaitable[Result]]) -> Result:
    """
    Run *work*, and return its result; an expected error ends the process with its exit code.

    SIGINT and SIGTERM set the event, after which *work* starts no further batch. A second signal
    cancels it, and the open transaction is rolled back.
    """
    return _run_interruptible(work, signals_before_cancel=1)


def run_query(work: Callable[[], Awaitable[Result]]) -> Result:
    """Like `run_interruptible`, for *work* that changes no row; the first signal cancels it."""
    return _run_interruptible(lambda _stop: work(), signals_before_cancel=0)


def _run_interruptible(
    work: Callable[[asyncio.Event], Awaitable[Result]], *, signals_before_cancel: int
) -> Result:

    async def awaited() -> Result:
        stop = asyncio.Event()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        signals = 0

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            stop.set()
            if signals > signals_before_cancel and task is not None:
                # A driver that is cancelled while it connects leaves the failure of the connection
                # in a future that is not awaited, and asyncio would print it.
                loop.set_exception_handler(_ignore)
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        return await work(stop)

    try:
        return once(awaited)
    except asyncio.CancelledError:
        raise SystemExit(ExitCode.CRASHED) from None


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Ignore an error that no task awaits."""
