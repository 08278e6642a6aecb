"""
Work of a command that a signal ends in an orderly way.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from outbox.cli import console as commands
from outbox.database.errors import reason_of, sqlstate
from outbox.errors import ConfigurationError
from outbox.runtime.service import ExitCode

Result = TypeVar("Result")

_NO_PRIVILEGE = "42501"


def run_interruptible(work: Callable[[asyncio.Event], Awaitable[Result]]) -> Result:
    """
    The result of *work*; ends the process with the fitting status if it cannot be done.

    SIGINT and SIGTERM set the event, after which *work* takes nothing new. A second one cancels
    it: what is not committed is rolled back.
    """
    return _run_interruptible(work, patience=1)


def run_query(work: Callable[[], Awaitable[Result]]) -> Result:
    """Likewise, for *work* that changes nothing and is ended by the first signal."""
    return _run_interruptible(lambda _stop: work(), patience=0)


def _run_interruptible(
    work: Callable[[asyncio.Event], Awaitable[Result]], *, patience: int
) -> Result:

    async def awaited() -> Result:
        stop = asyncio.Event()
        task = asyncio.current_task()
        signals = 0

        def on_signal() -> None:
            nonlocal signals
            signals += 1
            stop.set()
            if signals > patience and task is not None:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        return await work(stop)

    try:
        return commands.once(awaited)
    except asyncio.CancelledError:
        raise SystemExit(ExitCode.CRASHED) from None
    except DBAPIError as error:
        # Its text may quote a row.
        if sqlstate(error) == _NO_PRIVILEGE:
            commands.fail(
                ConfigurationError(
                    "the database refuses this to its user: see Dead letters in docs/how-to/run.md"
                )
            )
        print(f"error: the database has refused: {reason_of(error)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(ExitCode.CRASHED) from None
