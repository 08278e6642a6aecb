"""
The command `relay`.
"""

import os
import sys
from typing import Annotated

import typer
from alembic.util import CommandError

from outbox.cli import console as commands
from outbox.cli import dead_letter_view
from outbox.cli import dead_letters as dead_commands
from outbox.cli.console import EXIT_CODES, console
from outbox.database import migrate, privileges
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.source import DeadLetterSource, reading
from outbox.dead_letters.store import DeadLetters, ReasonCount
from outbox.errors import ConfigurationError, Unavailable
from outbox.runtime import service
from outbox.settings import SharedSettings
from outbox.tables import dead_letters, outbox
from relay import assembly, replay
from relay.settings import RelaySettings
from relay.storage.base import Backlog
from relay.storage.sql_store import SOURCE

app = typer.Typer(
    name="relay",
    help="Publishes the events that applications have committed to the outbox.",
    epilog="Settings are environment variables that begin with MQ_; see the page Settings of the "
    "documentation. " + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Run the command `relay`."""
    app()


@app.command()
def run() -> None:
    """Publish until SIGTERM or SIGINT; a second signal ends the relay at once."""
    settings = commands.settings(RelaySettings, process="relay")
    code = service.run(lambda stop: assembly.serve(settings, stop), drain=settings.drain)
    raise SystemExit(code)


@app.command("migrate")
def migrate_command(
    revision: Annotated[str, typer.Argument(help="Revision to migrate up to.")] = "head",
) -> None:
    """Create or upgrade the tables in the database of MQ_DATABASE_URL."""
    settings = commands.settings(SharedSettings, process="relay")
    try:
        with driver_errors_translated():
            migrate.upgrade(settings.database_url.get_secret_value(), revision)
    except CommandError:
        commands.fail(ConfigurationError("REVISION: there is no such revision"))
    except (ConfigurationError, Unavailable) as error:
        commands.fail(error)
    console.print(f"schema is at revision {revision}")


@app.command()
def topology() -> None:
    """Declare the exchanges that the relay publishes to. Consumers declare their own queues."""
    settings = commands.settings(RelaySettings, process="relay")
    declared = assembly.declared(settings)
    commands.once(lambda: assembly.broker(settings).declare(declared))
    for exchange in declared.exchanges:
        console.print(f"exchange {exchange.name} ({exchange.kind})")


@app.command()
def check() -> None:
    """Check settings, schema and topology without changing anything."""
    settings = commands.settings(RelaySettings, process="relay")

    async def checks() -> list[str]:
        async with assembly.database(settings) as engine:
            await assembly.verified(engine)
        return await assembly.broker(settings).verify(assembly.declared(settings))

    commands.warn_of_uncompared(commands.once(checks))
    commands.warn_of_sqlite(settings)
    console.print("settings, schema and topology are good")


@app.command()
def status(*, as_json: commands.AsJson = False) -> None:
    """Show the rows in the outbox, and the dead letters of the relay by reason."""
    settings = commands.settings(RelaySettings, process="relay")

    async def read() -> tuple[Backlog, list[ReasonCount]]:
        async with assembly.database(settings) as engine:
            await migrate.verify(engine)
            await privileges.verify(engine, {outbox: ["SELECT"], dead_letters: ["SELECT"]})
            backlog = await assembly.store(engine, settings).backlog()
            async with reading(engine) as connection:
                return backlog, await DeadLetters(SOURCE).reason_counts(connection)

    backlog, reason_counts = commands.once(read)
    if as_json:
        commands.print_json({"outbox": backlog, "dead_letters": reason_counts})
        return
    rows: dict[str, object] = {
        "rows": backlog.rows,
        "age of the oldest ready row": backlog.oldest_ready_age,
    }
    if backlog.dead_tuples is not None:
        rows["rows to vacuum"] = backlog.dead_tuples
        rows["age of the oldest snapshot"] = backlog.oldest_snapshot_age
    commands.show("outbox", rows)
    dead_letter_view.reason_counts(console, reason_counts)


def _dead_letters(_target: str) -> DeadLetterSource:
    return replay.dead_letter_source(commands.settings(RelaySettings, process="relay"))


app.add_typer(dead_commands.app(_dead_letters, of_consumers=False))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def demo(context: typer.Context) -> None:
    """Run relay and consumers, kill some, compare the effects; see `relay demo --help`."""
    # A separate program: the relay does not import the consumer, which the demo needs too. It
    # replaces this process, so that signals reach it.
    command = [sys.executable, "-m", "outbox_demo", *context.args]
    os.execv(sys.executable, command)  # noqa: S606 - our own module


if __name__ == "__main__":
    main()
