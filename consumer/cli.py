"""
The command `consumer`.
"""

import asyncio
import sys
from functools import partial
from typing import Annotated

import typer

from consumer import assembly, checks, contract_commands, replay
from consumer import run as service
from consumer import scale as scaling
from consumer.consumer import MOST_PARTITIONS
from consumer.failing import failing as failing_of
from consumer.failing_view import show_messages
from consumer.inspection import inspect
from consumer.maintenance.retention import retention as retention_of
from consumer.settings import ConsumerSettings
from consumer.status import status as status_of
from consumer.status_view import show
from consumer.supervision import run as supervisor
from consumer.target import load_consumer, start
from consumer.watched import watch_source
from outbox.checks.report import Report
from outbox.checks.result import Check
from outbox.cli import adoption, contract_options, process_options, second_person
from outbox.cli import audit as audit_commands
from outbox.cli import check as checked
from outbox.cli import console as commands
from outbox.cli import dead_letters as dead_commands
from outbox.cli.console import EXIT_CODES, console
from outbox.cli.dead_letter_options import with_filters
from outbox.cli.interruptible import run_interruptible
from outbox.cli.output import run_command
from outbox.cli.start import configure_logs, fail
from outbox.cli.version import Version
from outbox.cli.watch import watch_command
from outbox.database import migrate, row_access
from outbox.dead_letters.selection import duration
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import ConfigurationError
from outbox.runtime.service import ExitCode
from outbox.settings import load
from outbox.transports.user_topology import described

app = typer.Typer(
    name="consumer",
    epilog="Settings are environment variables that begin with MQ_; see the page Settings of the "
    "documentation. " + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Target = Annotated[
    str, typer.Argument(metavar="MODULE:NAME", help="The consumer, such as myapp.etl:etl.")
]

_REPORT_EVERY = 100_000  # rows of a purge
_BELOW_RETENTION = (
    "warning: --older-than: below MQ_DEDUPLICATION_RETENTION_HOURS: if a message whose age is "
    "between the two is delivered again, it takes effect again"
)


def main() -> None:
    """Run the command; the entry point of the package."""
    run_command(app)


@app.callback()
def options(*, version: Version = False) -> None:
    """Handles events, each once in effect."""
    del version


@app.command()
def run(
    target: Target,
    *,
    processes: process_options.Processes = None,
    min_processes: process_options.Minimum = None,
    max_processes: process_options.Maximum = None,
) -> None:
    """Handle events until SIGTERM or SIGINT; a second signal ends it at once."""
    if (processes, min_processes, max_processes) == (None, None, None):
        service.run(target)
    supervisor.run(target, processes, minimum=min_processes, maximum=max_processes)


@app.command()
def topology(
    target: Target,
    *,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Let the dedup rows of the consumer belong to its queue."),
    ] = False,
    because: adoption.Because = None,
) -> None:
    """Declare the consumer's queues and bindings."""
    settings, consumer = start(target, warnings="stderr", servers=["broker_url"])
    declared = assembly.declared(consumer, settings)

    async def declare() -> None:
        adoption.check_reason(adopt=adopt, because=because)
        await assembly.broker(consumer, settings).declare(declared)
        if adopt:
            expected = assembly.expectation(consumer, settings)
            async with assembly.database(consumer, settings) as engine:
                await adoption.adopt(engine, expected, because=because or "")

    commands.once(declare)
    for queue in declared.queues:
        console.print(f"queue {queue.name}")
    for line in described(declared, beside=[settings.main_exchange, settings.dlx_exchange]):
        console.print(line)


@app.command()
def asyncapi(
    target: Target,
    *,
    output: contract_options.Output = None,
    events: contract_options.Events = None,
    title: contract_options.Title = None,
    version: contract_options.ServiceVersion = None,
) -> None:
    """Write the AsyncAPI document of a consumer, as JSON. Connects to no server."""
    text = contract_commands.write(
        target, output=output, events=events or [], title=title, version=version
    )
    if output is None:
        print(text, end="")  # noqa: T201 - rich would fold it


@app.command()
def check(
    target: Target,
    *,
    contract: contract_options.Contract = None,
    as_json: commands.AsJson = False,
) -> None:
    """Check that events could flow: settings, servers, schema, topology; change nothing."""
    if contract is not None:
        if as_json:
            fail(ConfigurationError("--json: cannot be used with --contract"))
        commands.warn(contract_commands.compare_with(target, contract))
        console.print("the handlers can read all that the contract allows")
        return
    report = Report()
    settings = report.step(Check.SETTINGS, lambda: load(ConsumerSettings))
    if settings is not None:
        configure_logs(settings, process="consumer")
        checked.add_settings(report, settings)
        consumer = report.step(Check.HANDLERS, lambda: load_consumer(target))
        if consumer is not None:
            commands.once(lambda: inspect(consumer, settings, report))
    checked.show(report, as_json=as_json)


@app.command()
def scale(
    target: Target,
    partitions: Annotated[int, typer.Argument(min=1, max=MOST_PARTITIONS, metavar="N")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
) -> None:
    """Change the number of partitions of an ordered consumer while its processes run."""
    settings, consumer = start(target)
    work = scaling.preview if dry_run else scaling.scale
    if not run_interruptible(partial(work, consumer, settings, partitions, console.print)):
        raise SystemExit(ExitCode.CRASHED)


@app.command()
def status(target: Target, *, as_json: commands.AsJson = False) -> None:
    """Show the messages that the consumer has processed, and those that wait for it."""
    settings, consumer = start(target)
    found = commands.once(lambda: status_of(consumer, settings))
    if as_json:
        commands.print_json(found)
    else:
        show(console, found)


@app.command()
def failing(
    target: Target,
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most N.")] = 100,
    as_json: commands.AsJson = False,
) -> None:
    """List the messages that have failed and wait for their next attempt, the last ones first."""
    settings, consumer = start(target, servers=["database_url"])
    found = commands.once(lambda: failing_of(consumer, settings, limit=limit))
    (commands.print_json if as_json else show_messages)(found)


@app.command()
def purge(
    target: Target,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="For example 90s, 15m, 2h, 7d; the retention by default."
        ),
    ] = None,
) -> None:
    """Purge rows of the dedup store that are older than the retention, as `run` does."""
    settings, consumer = start(target)

    async def purge_rows(stop: asyncio.Event) -> int:
        age = duration("--older-than", older_than) or settings.retention
        total = 0
        async with assembly.database(consumer, settings) as engine:
            retention = retention_of(consumer, settings, engine, older_than=age)
            await migrate.verify(engine)
            await row_access.verify(engine, checks.rights_of_purge(consumer))
            if age < settings.retention:
                print(_BELOW_RETENTION, file=sys.stderr)  # noqa: T201
            async for rows in retention.batches(stop):
                if total // _REPORT_EVERY < (total + rows) // _REPORT_EVERY:
                    console.print(f"{total + rows:,} rows purged so far")
                total += rows
        return total

    console.print(f"{run_interruptible(purge_rows):,} rows purged")


def _dead_letters(target: str) -> DeadLetterSource:
    settings, consumer = start(target)
    return replay.dead_letter_source(consumer, settings)


app.add_typer(dead_commands.app(_dead_letters, of_consumers=True))
app.add_typer(audit_commands.app(_dead_letters, of_consumers=True))
app.command("watch")(watch_command(watch_source))
app.command("approve")(with_filters(second_person.approve_command(_dead_letters), without=set()))


if __name__ == "__main__":
    main()
