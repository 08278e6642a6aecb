"""
The command `relay`.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from outbox.checks.report import Report
from outbox.checks.result import Check
from outbox.cli import adoption, second_person, start
from outbox.cli import audit as audit_commands
from outbox.cli import check as checked
from outbox.cli import console as commands
from outbox.cli import dead_letters as dead_commands
from outbox.cli import erasure as erasure_commands
from outbox.cli import keys as key_commands
from outbox.cli.console import EXIT_CODES, console
from outbox.cli.dead_letter_options import with_filters
from outbox.cli.key_settings import KeySettings
from outbox.cli.output import run_command
from outbox.cli.version import Version
from outbox.database import migrate
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import ConfigurationError, Unavailable
from outbox.schema_name import check_schema_name
from outbox.settings import load
from outbox.transports.user_topology import described
from relay import assembly, replay, status_view
from relay import run as service
from relay.inspection import inspect
from relay.monitor import command as monitor_command
from relay.settings import RelaySettings
from relay.status import read_status

app = typer.Typer(
    name="relay",
    epilog="Settings are environment variables that begin with MQ_; see the page Settings of the "
    "documentation. " + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command `relay`."""
    run_command(app)


@app.callback()
def options(*, version: Version = False) -> None:
    """Publishes the events that applications have committed to the outbox."""
    del version


@app.command()
def run() -> None:
    """Publish until SIGTERM or SIGINT; a second signal ends the relay at once."""
    service.run()


@app.command("migrate")
def migrate_command(
    revision: Annotated[str, typer.Argument(help="Revision to migrate up to.")] = "head",
    schema: Annotated[
        str | None,
        typer.Option(
            help="Postgres: the schema of the tables; MQ_DATABASE_SCHEMA, or else the first one"
            " of search_path by default."
        ),
    ] = None,
    *,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql",
            help="Print the statements, and ask no database; REVISION may be a range: 0005:head.",
        ),
    ] = False,
) -> None:
    """Create or upgrade the tables in the database of MQ_DATABASE_URL."""
    settings = start.settings(
        RelaySettings, process="relay", warnings="stderr", servers=["database_url"]
    )
    url = settings.database_url.get_secret_value().strip()
    try:
        schema = settings.database_schema if schema is None else schema_option(schema)
        if sql:
            migrate.print_statements(url, revision, schema=schema)
            return
        with driver_errors_translated():
            location = migrate.upgrade(url, revision, schema=schema)
    except (ConfigurationError, Unavailable) as error:
        start.fail(error)
    console.print(str(location))


def schema_option(name: str) -> str:
    """Return the *name* after --schema; raises ConfigurationError if no schema can have it."""
    try:
        return check_schema_name(name)
    except ValueError as error:
        raise ConfigurationError(f"--schema: {error}") from None


@app.command()
def topology(
    *,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Publish the events of this schema to this exchange now."),
    ] = False,
    because: adoption.Because = None,
) -> None:
    """Declare the exchanges that the relay publishes to. Consumers declare their own queues."""
    settings = start.settings(
        RelaySettings, process="relay", warnings="stderr", servers=["broker_url"]
    )
    declared = assembly.declared(settings)

    async def declare() -> None:
        adoption.check_reason(adopt=adopt, because=because)
        await assembly.broker(settings).declare(declared)
        if adopt:
            async with assembly.database(settings) as engine:
                await adoption.adopt(engine, assembly.expectation(settings), because=because or "")

    commands.once(declare)
    for line in described(declared):
        console.print(line)


@app.command()
def check(*, as_json: commands.AsJson = False) -> None:
    """Check that events could flow: settings, servers, schema, topology; change nothing."""
    report = Report()
    settings = report.step(Check.SETTINGS, lambda: load(RelaySettings))
    if settings is not None:
        start.configure_logs(settings, process="relay")
        checked.add_settings(report, settings)
        commands.once(lambda: inspect(settings, report))
    checked.show(report, as_json=as_json)


@app.command()
def status(*, as_json: commands.AsJson = False) -> None:
    """Show why events are in the outbox, and the dead letters of the relay by reason."""
    settings = start.settings(RelaySettings, process="relay")
    found = commands.once(lambda: read_status(settings))
    if as_json:
        commands.print_json(found)
    else:
        status_view.show(console, found, main_exchange=settings.main_exchange)


@app.command()
def monitor(
    *,
    once: Annotated[
        bool,
        typer.Option("--once", help="Print one reading, and exit with 1 if there is an alert."),
    ] = False,
    as_json: commands.AsJson = False,
) -> None:
    """Show relays, consumers, outbox and broker on one screen, with alerts; `q` ends it."""
    settings = start.settings(RelaySettings, process="relay")
    if as_json and not once:
        start.fail(ConfigurationError("--json: needs --once"))
    if once:
        raise SystemExit(monitor_command.show_once(settings, as_json=as_json))
    monitor_command.show_live(settings)


def _dead_letters(_target: str) -> DeadLetterSource:
    return replay.dead_letter_source(start.settings(RelaySettings, process="relay"))


def _keys() -> KeySettings:
    settings = start.settings(RelaySettings, process="relay")
    return KeySettings(
        keys=settings.keys,
        subjects=settings.subject_keys,
        allow_insecure=settings.allow_insecure,
        database=lambda: assembly.database(settings),
    )


app.add_typer(dead_commands.app(_dead_letters, of_consumers=False))
erasure_commands.add_commands(
    app, lambda: start.settings(RelaySettings, process="relay"), assembly.database
)
app.add_typer(key_commands.app(_keys))
app.add_typer(audit_commands.app(_dead_letters, of_consumers=False))
app.command("approve")(
    with_filters(second_person.approve_command(_dead_letters), without={"target"})
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def demo(context: typer.Context) -> None:
    """Run relay and consumers, kill some, compare the effects; see `relay demo --help`."""
    # A separate program: the relay does not import the consumer, which the demo needs too. It
    # replaces this process, so that signals reach it. Python would search the working directory
    # first, whose modules may have the names of ours.
    found = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(filter(None, found))
    command = [sys.executable, "-m", "outbox_demo", *context.args]
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own module


if __name__ == "__main__":
    main()
