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
from outbox.cli import start
from outbox.cli.output import run_command
from outbox.database import migrate
from outbox.database.errors import driver_errors_translated
from outbox.errors import ConfigurationError, Unavailable
from outbox.settings import load
from outbox_demo import demo, events_file, ndjson, sources
from outbox_demo.plan import Plan
from outbox_demo.processes import ChildFailed
from outbox_demo.resources import Resources
from outbox_demo.run import Run
from outbox_demo.work_directory import environment, work_directory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()

EPILOG = (
    "Exit status: 0 every committed event was applied once; 1 it was not, or not in time; "
    "2 bad options, events or settings; 3 database or broker unreachable."
)

Count = Annotated[int, typer.Option(min=1, help="Number of uploads to generate.")]
Events = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.ndjson",
        help="Use these events instead, one JSON object a line: the fields of "
        'HealthDataMessage, or {"type": ..., "payload": ...}.',
    ),
]
Files = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Use one upload for each file below this directory instead, with size and SHA-256.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the random generator.")]
Deadline = Annotated[float, typer.Option(min=1, help="Seconds after which the run has failed.")]
Directory = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, help="An empty directory for files and logs. Unset: a temporary one."
    ),
]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep all files, tables and queues of the run.")
]


@app.command(epilog=EPILOG)
def command(
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
    Commit events, roll some back, kill relay and consumers meanwhile, and compare the effects.

    The run uses new SQLite files, or the servers of MQ_DATABASE_URL and MQ_BROKER_URL.
    """
    if events and files:
        raise typer.BadParameter("use --events or --files, not both")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    logging.disable()  # other libraries quote messages in their logs
    if events:
        source = ndjson.read(events)
    else:
        source = sources.files(files) if files else sources.generated(count, seed=seed)
    try:
        with work_directory(directory, keep=keep) as work:
            passed = _run(source, work, timedelta(seconds=deadline), seed=seed, keep=keep)
    except (ConfigurationError, Unavailable) as error:
        start.fail(error)
    except ChildFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0 if passed else 1)


def _run(
    events: Iterable[Event], work: Path, deadline: timedelta, *, seed: int, keep: bool
) -> bool:
    """Whether the run passed; removes its tables and queues from servers unless *keep*."""
    expected = events_file.write(events, work / events_file.FILE_NAME)
    run = Run.new(expected.types)
    servers = [name for name in ("MQ_DATABASE_URL", "MQ_BROKER_URL") if os.environ.get(name)]
    os.environ.update(environment(work) | run.environment())
    settings = load(ConsumerSettings)
    with driver_errors_translated():
        migrate.upgrade(settings.database_url.get_secret_value(), schema=settings.database_schema)
    try:
        return asyncio.run(demo.run(Plan(run, expected, settings, work, deadline, seed), console))
    finally:
        if not keep:
            _remove(Resources(run, settings), servers)


def _remove(resources: Resources, servers: Collection[str]) -> None:
    """Remove *resources* from the user's *servers*, as far as they can be reached."""
    removals = {
        "MQ_DATABASE_URL": resources.remove_from_database,
        "MQ_BROKER_URL": resources.remove_from_broker,
    }
    for name in servers:
        try:
            asyncio.run(removals[name]())
        except Unavailable as error:
            print(
                f"{name}: names that begin with demo were not removed ({error})", file=sys.stderr
            )


def main() -> None:
    """Run the command `relay demo`."""
    run_command(lambda: app(prog_name="relay demo"))


def _exit(number: int, _frame: object) -> None:
    """Exit through every `finally`, so that no child process and no file is left."""
    raise SystemExit(128 + number)
