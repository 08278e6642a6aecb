"""
The commands `dead list`, `show`, `export`, `replay` and `drop` of both processes.
"""

import os
import sys
from collections.abc import Callable
from functools import partial

import typer
from rich.console import Console

from outbox.cli import dead_letter_operations as leaving
from outbox.cli import dead_letter_view as display
from outbox.cli.console import console
from outbox.cli.dead_letter_export import ExportFailed, export
from outbox.cli.dead_letter_operations import ReplayRequest
from outbox.cli.dead_letter_options import (
    Because,
    Bodies,
    By,
    Completed,
    DryRun,
    Everything,
    File,
    Id,
    NewBody,
    Positions,
    ShowBody,
    Target,
    with_filters,
)
from outbox.cli.interruptible import run_interruptible, run_query
from outbox.dead_letters import queries as reading
from outbox.dead_letters import redaction as exhibit
from outbox.dead_letters import repair
from outbox.dead_letters.audit import Audit, user_and_host
from outbox.dead_letters.selection import Selection, deliberate, selection, words
from outbox.dead_letters.source import DeadLetterSource
from outbox.runtime.service import ExitCode

EXIT_CODES = (
    "Exit status: 0 done, 1 something was left or went wrong, 2 bad options or settings, "
    "3 database or broker unreachable."
)

_FOR_BODIES = "is needed to see bodies: say why, it is kept"
_FOR_CHANGES = "is needed: say why, it is kept"

OpenSource = Callable[[str], DeadLetterSource]
"""The source that a target names; ends the process with status 2 if there is none."""


def app(open_source: OpenSource, *, of_consumers: bool) -> typer.Typer:
    """The sub-command `dead`; commands take a target only if it is *of_consumers*."""
    commands = DeadCommands(open_source)
    without = set() if of_consumers else {"target", "completed"}
    made = typer.Typer(
        name="dead",
        help="Read, repair, replay and drop messages that were given up.",
        epilog="See docs/how-to/retries-and-dead-letters.md. " + EXIT_CODES,
        no_args_is_help=True,
    )
    for name, command in commands.by_name().items():
        made.command(name)(with_filters(command, without=without))
    return made


class DeadCommands:
    """The commands on the letters of the source that *open_source* finds."""

    def __init__(self, open_source: OpenSource) -> None:
        self._open = open_source

    def by_name(self) -> dict[str, Callable[..., None]]:
        """Each command with the name that it is called by."""
        return {
            "list": self.list_letters,
            "show": self.show,
            "export": self.export,
            "replay": self.replay,
            "drop": self.drop,
        }

    def list_letters(self, *, target: Target = "", selected: Selection) -> None:
        """List letters, the oldest first, without bodies and keys."""
        source = self._open(target)
        rows, now, count = run_query(lambda: reading.listed(source, selected))
        display.letters(console, rows, now=now)
        more = "" if len(rows) == count else "; --limit shows more"
        console.print(f"{len(rows):,} of {count:,}{more}")

    def show(
        self,
        *,
        target: Target = "",
        id_: Id,
        body: ShowBody = False,
        because: Because = None,
        by: By = None,
    ) -> None:
        """Show what is known of a letter; its body and keys only with --body and --because."""
        source = self._open(target)
        chosen = selection({"ids": [id_]})
        audit = _audit(source, chosen, because, by, needed=_FOR_BODIES) if body else None
        letter = run_query(lambda: reading.one(source, chosen, audit))
        display.letter(console, exhibit.metadata(letter))
        if body:
            display.letter(console, exhibit.keys(letter))
            print(exhibit.printable(exhibit.readable_body(letter)))  # noqa: T201 - not to be folded

    def export(
        self,
        *,
        target: Target = "",
        file: File,
        bodies: Bodies = False,
        because: Because = None,
        by: By = None,
        selected: Selection,
    ) -> None:
        """Write letters into a new file, a JSON object a line; with bodies only if asked."""
        source = self._open(target)
        audit = _audit(source, selected, because, by, needed=_FOR_BODIES) if bodies else None
        beside = Console(stderr=True)
        work = partial(export, source, selected, file, audit=audit, console=beside)
        try:
            is_whole = run_interruptible(lambda stop: work(stop=stop))
        except ExportFailed as error:
            print(f"error: FILE: cannot be written ({error})", file=sys.stderr)  # noqa: T201
            # A pipe that nobody reads would raise once more at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            is_whole = False
        _end(is_clean=is_whole)

    def replay(
        self,
        *,
        target: Target = "",
        positions: Positions = None,
        everything: Everything = False,
        because: Because = None,
        by: By = None,
        dry_run: DryRun = False,
        body: NewBody = None,
        completed: Completed = False,
        selected: Selection,
    ) -> None:
        """Send letters where they came from, and delete those that have arrived."""
        del positions  # they are in the selection
        source = self._open(target)
        deliberate(selected, everything=everything)
        new_body = None if body is None else repair.read(body, selected)
        if dry_run:
            return self._count(source, selected, rerun=completed)
        audit = _audit(source, selected, because, by, needed=_FOR_CHANGES)
        order = ReplayRequest(audit=audit, rerun=completed, body=new_body)
        summary = run_interruptible(lambda stop: leaving.replay(source, order, console, stop))
        return _end(is_clean=summary.is_clean)

    def drop(
        self,
        *,
        target: Target = "",
        positions: Positions = None,
        everything: Everything = False,
        because: Because = None,
        by: By = None,
        dry_run: DryRun = False,
        selected: Selection,
    ) -> None:
        """Delete letters for ever."""
        del positions
        source = self._open(target)
        deliberate(selected, everything=everything)
        if dry_run:
            return self._count(source, selected)
        audit = _audit(source, selected, because, by, needed=_FOR_CHANGES)
        summary = run_interruptible(
            lambda stop: leaving.drop(source, ReplayRequest(audit=audit), console, stop)
        )
        return _end(is_clean=summary.is_clean)

    def _count(
        self, source: DeadLetterSource, selected: Selection, *, rerun: bool | None = None
    ) -> None:
        tallies, duplicates = run_query(lambda: reading.counted(source, selected))
        display.tallies(console, tallies)
        console.print(f"{sum(tally.letters for tally in tallies):,} selected, nothing changed")
        if rerun is not None:
            display.duplicates(console, duplicates, rerun=rerun)


def _audit(
    source: DeadLetterSource,
    selected: Selection,
    because: str | None,
    by: str | None,
    *,
    needed: str,
) -> Audit:
    return Audit(
        actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
        because=words("--because", because, needed=needed),
        source=source.name,
        selection=selected,
    )


def _end(*, is_clean: bool) -> None:
    if not is_clean:
        raise SystemExit(ExitCode.CRASHED)
