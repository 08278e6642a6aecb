"""
Running a process: signals, draining, exit codes.

After SIGTERM or SIGINT the service drains: it takes no new messages and finishes those in flight.
A second signal, or the drain deadline, cancels the rest; the next process repeats work that was
not committed or confirmed.
"""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import IntEnum
from typing import TypeAlias

from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import captured, logs

ABORT_SECONDS = 5.0
"""Seconds in which cancelled work may roll back and close its connections."""


class ExitCode(IntEnum):
    """Exit codes."""

    STOPPED = 0
    """Stopped cleanly."""
    CRASHED = 1
    """An unexpected error; the log line says where it was raised."""
    BAD_CONFIGURATION = 2
    """A setting, the schema or the topology is wrong, or a server refuses the login."""
    UNREACHABLE = 3
    """The database or the broker could not be reached at start."""
    DRAIN_DEADLINE = 4
    """Messages in flight were not finished in time; the next process repeats them."""
    APPROVAL_NEEDED = 5
    """A command has recorded a request, which a second person has to approve first."""
    CRASH_LIMIT = 6
    """A supervisor has stopped, because the processes that it started crashed too often."""


Service: TypeAlias = Callable[[asyncio.Event], Awaitable[ExitCode | None]]
"""
A coroutine function that works until the event is set, then drains and returns.

It may return another exit code than STOPPED, and has logged the reason.
"""


def run(service: Service, *, drain: timedelta) -> ExitCode:
    """
    Run *service* until it returns or a signal ends it; never raises.

    If the drain deadline passes, it does not return but ends the process with DRAIN_DEADLINE.
    """
    log = logs.get("service")
    _tune_garbage_collector()
    try:
        with (
            captured.python_errors_logged(),
            asyncio.Runner(loop_factory=_fastest_loop()) as runner,
        ):
            return runner.run(_run(service, drain))
    except ConfigurationError as error:
        log.error("configuration_refused", problem=str(error))  # noqa: TRY400
        return ExitCode.BAD_CONFIGURATION
    except Unavailable as error:
        if error.refused:
            log.error("configuration_refused", problem=str(error))  # noqa: TRY400
            return ExitCode.BAD_CONFIGURATION
        log.error("server_unreachable", problem=str(error))  # noqa: TRY400
        return ExitCode.UNREACHABLE
    except (Exception, asyncio.CancelledError, SystemExit) as error:  # noqa: BLE001 - outermost
        # The application may raise all of them, as a lifespan that awaits what it has cancelled.
        log.error("crashed", **logs.describe(error))  # noqa: TRY400 - a traceback quotes values
        return ExitCode.CRASHED


def _tune_garbage_collector() -> None:
    """
    Collect cyclic garbage less often, and exclude all objects that exist after the imports.

    Batches consist of many objects and few cycles. With the default thresholds the collector
    scans all of them several times per batch: a seventh of a busy relay's time, as measured.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop if it is installed; None stands for asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(service: Service, drain: timedelta) -> ExitCode:
    log = logs.get("service")
    stop, signalled, abort = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        # Not `stop`: the service may set it as well, and then this may be the same request.
        is_second = signalled.is_set()
        log.info("signal_received", signal=number.name, draining=not is_second)
        signalled.set()
        (abort if is_second else stop).set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(captured.on_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)

    work = asyncio.ensure_future(service(stop))
    stopping = asyncio.ensure_future(stop.wait())
    aborting = asyncio.ensure_future(abort.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait(
                {work, aborting},
                timeout=drain.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not work.done():
            work.cancel()
            await asyncio.wait({work}, timeout=ABORT_SECONDS)
            log.error("drain_deadline_passed", drain_seconds=drain.total_seconds())
            # A hanging COMMIT must not be interrupted, and a thread cannot be: exit without them.
            # The next process finds out whether they succeeded.
            os._exit(ExitCode.DRAIN_DEADLINE)
        code = await _result(work)
    finally:
        stopping.cancel()
        aborting.cancel()
    if code not in (None, ExitCode.STOPPED):
        return code
    log.info("stopped")
    return ExitCode.STOPPED


async def _result(work: asyncio.Future[ExitCode | None]) -> ExitCode | None:
    """
    Return the code of *work*, or raise its error; of a group the first one.

    That one has cancelled the others.
    """
    try:
        return await work
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def pause(stop: asyncio.Event, duration: timedelta) -> None:
    """Wait for *duration*, or until *stop* is set."""
    # On Python 3.11 `wait_for` loses a cancellation that comes as *stop* is set:
    # findings/asyncio-wait-for-lost-cancellation.sh.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration.total_seconds()):
            await stop.wait()
