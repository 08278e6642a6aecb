"""
The command line of the demo: `python -m outbox_demo`, or `relay demo`.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Collection, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from consumer.settings import ConsumerSettings
from outbox import Event
from outbox.cli import console as commands
from outbox.database import migrate
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError, Unavailable
from outbox.settings import load
from outbox_demo import lines, sources, spool, workplace
from outbox_demo.demo import perform
from outbox_demo.plot import Plot
from outbox_demo.processes import ChildFailed
from outbox_demo.run import Run
from outbox_demo.stage import Stage

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()

EPILOG = (
    "Exit status: 0 every committed event had its effect, once; 1 not so, or not in time; "
    "2 bad options, events or settings; 3 database or broker unreachable."
)

Count = Annotated[int, typer.Option(min=1, help="How many uploads to invent.")]
Events = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.ndjson",
        help="Tell these events instead, one JSON object a line: the fields of "
        'HealthDataMessage, or {"type": ..., "payload": ...}.',
    ),
]
Files = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Announce each file below this directory instead, with its true size and SHA-256.",
    ),
]
Seed = Annotated[int, typer.Option(help="What chance begins with.")]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds after which it has failed.")]
Directory = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, help="Where to work: an empty directory. Unset: a temporary one."
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Remove nothing, and say where it is.")]


@app.command(epilog=EPILOG)
def demo(
    *,
    count: Count = 10_000,
    events: Events = None,
    files: Files = None,
    seed: Seed = 4711,
    deadline: Deadline = 300,
    directory: Directory = None,
    keep: Keep = False,
) -> None:
    """
    Commit events, roll some back, kill the relay and the workers meanwhile, and count.

    Everything happens in SQLite files of its own, or where MQ_DATABASE_URL and MQ_BROKER_URL are.
    """
    if events and files:
        raise typer.BadParameter("give --events or --files, not both")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    logging.disable()  # other libraries quote messages in theirs
    if events:
        source = lines.read(events)
    else:
        source = sources.files(files) if files else sources.generated(count, seed=seed)
    try:
        with workplace.directory(directory, keep=keep) as work:
            happy = _perform(source, work, timedelta(seconds=deadline), seed=seed, keep=keep)
    except (ConfigurationError, Unavailable) as error:
        commands.fail(error)
    except ChildFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0 if happy else 1)


def _perform(
    events: Iterable[Event], work: Path, deadline: timedelta, *, seed: int, keep: bool
) -> bool:
    """Whether all went well; what the run made on servers of others is removed unless *keep*."""
    intended = spool.write(events, work / spool.FILE_NAME)
    run = Run.new(intended.types)
    theirs = [name for name in ("MQ_DATABASE_URL", "MQ_BROKER_URL") if os.environ.get(name)]
    os.environ.update(workplace.environment(work) | run.environment())
    settings = load(ConsumerSettings)
    with driver_errors_translated():
        migrate.upgrade(settings.database_url.get_secret_value())
    try:
        return asyncio.run(perform(Plot(run, intended, settings, work, deadline, seed), console))
    finally:
        if not keep:
            _sweep(Stage(run, settings), theirs)


def _sweep(stage: Stage, theirs: Collection[str]) -> None:
    """Remove from servers of others what the run has left there, as far as they can be reached."""
    sweeps = {"MQ_DATABASE_URL": stage.sweep_database, "MQ_BROKER_URL": stage.sweep_broker}
    for name in theirs:
        try:
            asyncio.run(sweeps[name]())
        except Unavailable as error:
            print(f"{name}: what begins with demo was left there ({error})", file=sys.stderr)


def _leave(number: int, _frame: object) -> None:
    """End by way of every `finally`, so that no child and no file is left."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    app(prog_name="relay demo")
