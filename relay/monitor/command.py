"""
One run of `relay monitor`, once or live.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from outbox.cli import console as commands
from outbox.cli.interruptible import run_interruptible, run_query
from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime.service import ExitCode
from outbox.transports.connect import management
from relay import assembly
from relay.monitor import view
from relay.monitor.alerts import Alert, alerts
from relay.monitor.reader import Reader
from relay.monitor.reading import Problem, Reading
from relay.monitor.screen import heading, watch
from relay.monitor.snapshot import Snapshot, snapshot
from relay.monitor.thresholds import thresholds
from relay.monitor.view import Drawing
from relay.settings import RelaySettings

ALERT = 1
"""The exit status of `--once` if there is an alert."""


def show_once(settings: RelaySettings, *, as_json: bool) -> int:
    """Print one reading; returns the exit status."""

    async def read() -> Reading:
        async with _reader(settings) as reader:
            return await reader.read()

    reading = run_query(read)
    found, raised = _judge(settings, reading)
    if as_json:
        commands.print_json(document(found, raised))
    else:
        view.print_all(commands.console, found, raised)
    for problem in _problems(reading):
        print(f"error: {problem.text}", file=sys.stderr)  # noqa: T201
    return exit_status(reading, raised)


def show_live(settings: RelaySettings) -> None:
    """Show readings until a key or a signal ends it; a server may be unavailable meanwhile."""

    async def show(stop: asyncio.Event) -> None:
        async with _reader(settings) as reader:
            before: list[Reading] = []

            async def draw(width: int) -> Drawing:
                reading = await reader.read()
                if not before:
                    _raise_refused(reading)
                earlier = before[0] if before else None
                found, raised = _judge(settings, reading, before=earlier)
                before.append(reading)
                del before[:-_READINGS]
                title = heading(datetime.now(UTC))
                return view.screen(found, raised, heading=title, width=width)

            await watch(draw, stop)

    run_interruptible(show)


_READINGS = 15
"""How many readings are kept: the rate of recorded events is that of the last half minute."""


def document(found: Snapshot, raised: list[Alert]) -> dict[str, Any]:
    """Return what `--once --json` prints."""
    return {"alerts": raised} | {field.name: getattr(found, field.name) for field in fields(found)}


def exit_status(reading: Reading, raised: list[Alert]) -> int:
    """Return the exit status of `--once`."""
    problems = _problems(reading)
    if any(problem.refused for problem in problems):
        return ExitCode.BAD_CONFIGURATION
    if problems:
        return ExitCode.UNREACHABLE
    return ALERT if raised else ExitCode.STOPPED


def _problems(reading: Reading) -> list[Problem]:
    answers = (reading.database, reading.broker)
    return [answer for answer in answers if isinstance(answer, Problem)]


def _raise_refused(reading: Reading) -> None:
    refused = [problem.text for problem in _problems(reading) if problem.refused]
    if refused:
        raise ConfigurationError("\n".join(refused))


def _judge(
    settings: RelaySettings, reading: Reading, *, before: Reading | None = None
) -> tuple[Snapshot, list[Alert]]:
    limits = thresholds(settings)
    found = snapshot(
        reading, prefix=settings.processing_queue, unseen=limits.unseen, before=before
    )
    return found, alerts(found, limits)


@asynccontextmanager
async def _reader(settings: RelaySettings) -> AsyncIterator[Reader]:
    async with assembly.database_to_look_at(settings) as engine:
        store = assembly.store(engine, settings)
        try:
            yield Reader(
                engine,
                store,
                transport=assembly.broker(settings),
                management=management(settings),
            )
        finally:
            with suppress(Unavailable):
                await store.close()
