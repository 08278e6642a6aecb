"""
Running a command so that a signal ends it cleanly.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from outbox.cli.console import fail, once
from outbox.database.errors import reason_of, sqlstate
from outbox.errors import ConfigurationError
from outbox.runtime.service import ExitCode

Result = TypeVar("Result")

_NO_PRIVILEGE = "42501"


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
        task = asyncio.current_task()
        signals = 0

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            stop.set()
            if signals > signals_before_cancel and task is not None:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        return await work(stop)

    try:
        return once(awaited)
    except asyncio.CancelledError:
        raise SystemExit(ExitCode.CRASHED) from None
    except DBAPIError as error:
        # Its text may quote a row.
        if sqlstate(error) == _NO_PRIVILEGE:
            fail(
                ConfigurationError(
                    "the database user lacks a privilege: see Dead letters in docs/how-to/run.md"
                )
            )
        print(f"error: the database refused the statement: {reason_of(error)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.CRASHED) from None
