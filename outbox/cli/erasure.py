"""
The commands `erase` and `readmit`: the keys of persons.
"""

import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Audit, Filters, StatedFilters, user_and_host
from outbox.cli.console import AsJson, once, print_json, show
from outbox.cli.second_person import Approval, say_how_to_approve
from outbox.cli.start import fail
from outbox.dead_letters.selection import whole_number, words
from outbox.errors import ApprovalNeeded, BatchesNotEnded, ConfigurationError
from outbox.extras import packages_of
from outbox.runtime.service import ExitCode
from outbox.settings import SharedSettings

if TYPE_CHECKING:
    from outbox.erasure.command import Request

SOURCE = "relay"
STATUSES = (
    "Exit status: 0 erased, also if a subject is unknown or was erased before; 2 bad settings or"
    " file; 3 a database or the source of keys is unreachable; 4 batches of consumers did not end"
    " within --wait; 5 a second person has to approve it (MQ_TWO_PERSON). After 3, 4 or a"
    " crash, the same command goes on."
)
WHY = "is needed, without a name; audit_log keeps it"
Result = TypeVar("Result")
Settings = TypeVar("Settings", bound=SharedSettings)
Database = Callable[[Settings], AbstractAsyncContextManager[AsyncEngine]]

SubjectFile = Annotated[
    Path | None,
    typer.Option(
        "--subject-file",
        metavar="FILE",
        help="The persons, as events name them: one on a line; - reads standard input.",
    ),
]
Because = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why you do this; audit_log keeps it, so name no person."),
]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="The actor; default is the user and the host.")
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="How long to wait for batches of consumers that began before.",
    ),
]
Again = Annotated[
    bool,
    typer.Option(
        "--again",
        help="After a restore of the key database: destroy again the keys that audit_log names. "
        "Needs no file.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]


def add_commands(
    app: typer.Typer, settings: Callable[[], Settings], database: Database[Settings]
) -> None:
    """Add the commands to *app*, for the outbox in the *database* of *settings*."""

    @app.command(epilog=STATUSES)
    def erase(
        *,
        subject_file: SubjectFile = None,
        because: Because = None,
        by: By = None,
        wait: Wait = 60.0,
        approval: Approval = None,
        again: Again = False,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        """Destroy the keys of persons: their events can be read no more, in any queue or table."""
        if again == (subject_file is not None):
            fail(ConfigurationError("--subject-file: give a file, or --again"))
        audit = None if dry_run else _audit(because, by)
        request = _request(subject_file, audit, wait, approval)
        loaded = settings()

        async def work() -> object:
            from outbox.erasure import command  # noqa: PLC0415 - needs an extra

            return await command.erase(loaded, lambda: database(loaded), request)

        _show("would be erased" if dry_run else "erased", _once(work), as_json=as_json)

    @app.command()
    def readmit(
        *,
        subject_file: SubjectFile = None,
        because: Because = None,
        by: By = None,
        wait: Wait = 60.0,
        approval: Approval = None,
        as_json: AsJson = False,
    ) -> None:
        """Let persons who were erased have events again, with new keys."""
        if subject_file is None:
            fail(ConfigurationError("--subject-file: is needed"))
        request = _request(subject_file, _audit(because, by), wait, approval)
        loaded = settings()

        async def work() -> object:
            from outbox.erasure import command  # noqa: PLC0415 - needs an extra

            return await command.readmit(loaded, lambda: database(loaded), request)

        _show("readmitted", _once(work), as_json=as_json)


def _request(
    file: Path | None, audit: Audit[Filters] | None, wait_seconds: float, approval: str | None
) -> "Request":
    """The request of a command line; ends the process if the file cannot be used."""
    try:
        with packages_of("MQ_ENCRYPTION_KEYS: encryption", extra="encryption"):
            from outbox.erasure import subject_file  # noqa: PLC0415
            from outbox.erasure.command import Request  # noqa: PLC0415
        names = None if file is None else subject_file.read(file)
        number = None if approval is None else whole_number("--approval", approval)
    except ConfigurationError as error:
        fail(error)
    wait = timedelta(seconds=wait_seconds)
    return Request(subjects=names, audit=audit, wait=wait, report=_report, approval=number)


def _audit(because: str | None, by: str | None) -> Audit[Filters]:
    """The audit of one run, whose selection names no subject; ends the process if it cannot be."""
    try:
        return Audit(
            actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
            because=words("--because", because, needed=WHY),
            source=SOURCE,
            selection=StatedFilters(),
        )
    except ConfigurationError as error:
        fail(error)


def _report(passed: timedelta, names: list[str]) -> None:
    seconds = int(passed.total_seconds())
    print(f"waiting for {seconds} s: {'; '.join(names)}", file=sys.stderr)  # noqa: T201


def _once(work: Callable[[], Awaitable[Result]]) -> Result:
    async def ended() -> Result:
        try:
            return await work()
        except BatchesNotEnded as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            raise SystemExit(ExitCode.DRAIN_DEADLINE) from None
        except ApprovalNeeded as needed:
            say_how_to_approve(needed, "")
            raise SystemExit(ExitCode.APPROVAL_NEEDED) from None

    return once(ended)


def _show(title: str, found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = asdict(found) if is_dataclass(found) and not isinstance(found, type) else dict(found)
    tables = rows.pop("unreadable", {})
    rows |= {f"unreadable in {table}": number for table, number in tables.items()}
    show(title, {name.replace("_", " "): value for name, value in rows.items()})
