"""
Running a process: signals, draining, exit codes.

SIGTERM and SIGINT ask the service to drain: it takes no new work and finishes what is in flight.
A second signal, or the drain deadline, cancels what is left; what was not committed or confirmed
is done again by the next process.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import IntEnum
from typing import TypeAlias

from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import logs

Service: TypeAlias = Callable[[asyncio.Event], Awaitable[None]]
"""Works until the event is set, then drains and returns."""


ABORT_SECONDS = 5.0
"""How long cancelled work may take to roll back and to close its connections."""


class ExitCode(IntEnum):
    """How a process ended."""

    STOPPED = 0
    """Stopped cleanly."""
    CRASHED = 1
    """An error that was not foreseen; the log has its place."""
    BAD_CONFIGURATION = 2
    """A setting, the schema or the topology cannot work; standard error says which."""
    UNREACHABLE = 3
    """The database or the broker could not be reached at start."""
    DRAIN_DEADLINE = 4
    """Work in flight was not finished in time, and will be done again."""


def run(service: Service, *, drain: timedelta) -> ExitCode:
    """
    Run *service* until it returns or a signal ends it; never raises.

    Does not return once the drain deadline has passed: it ends the process with DRAIN_DEADLINE.
    """
    log = logs.get("service")
    _spare_the_collector()
    try:
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            return runner.run(_run(service, drain))
    except ConfigurationError as error:
        log.error("configuration_refused", problem=str(error))  # noqa: TRY400
        return ExitCode.BAD_CONFIGURATION
    except Unavailable as error:
        log.error("server_unreachable", problem=str(error))  # noqa: TRY400
        return ExitCode.UNREACHABLE
    except Exception as error:  # noqa: BLE001 - the outermost line of defence
        log.error("crashed", **logs.describe(error))  # noqa: TRY400 - a traceback quotes values
        return ExitCode.CRASHED


def _spare_the_collector() -> None:
    """
    Have cyclic garbage collected more rarely, and never look at what was imported.

    Batches are made of many objects and few cycles; the collector would look through all of them
    several times a batch, which was measured as a seventh of a busy relay's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed; None is asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(service: Service, drain: timedelta) -> ExitCode:
    log = logs.get("service")
    stop, abort = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        log.info("signal_received", signal=number.name, draining=not stop.is_set())
        (abort if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
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
            # A COMMIT that hangs is not interrupted and a thread can not be: leave them behind.
            # The next process finds out what became of them.
            os._exit(ExitCode.DRAIN_DEADLINE)
        await _raise_first(work)
    finally:
        stopping.cancel()
        aborting.cancel()
    log.info("stopped")
    return ExitCode.STOPPED


async def _raise_first(work: asyncio.Future[None]) -> None:
    """Raise what *work* raised; of a group the first, since one failure ends the others."""
    try:
        await work
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def pause(stop: asyncio.Event, duration: timedelta) -> None:
    """Wait for *duration*, or less if *stop* is set meanwhile."""
    try:
        await asyncio.wait_for(stop.wait(), duration.total_seconds())
    except TimeoutError:
        return
