"""
The commands `dead list`, `show`, `export`, `replay` and `drop` of both processes.
"""

import sys
from collections.abc import Callable
from functools import partial

import typer
from rich.console import Console

from outbox.audit.log import Action, Audit
from outbox.cli import dead_letter_operations as operations
from outbox.cli import dead_letter_view as view
from outbox.cli.console import AsJson, console, print_json, warn
from outbox.cli.dead_letter_export import ExportFailed, export
from outbox.cli.dead_letter_operations import ReplayRequest
from outbox.cli.dead_letter_options import (
    Because,
    BecauseOfChange,
    Bodies,
    By,
    Completed,
    Decrypt,
    DryRun,
    Everything,
    File,
    Id,
    NewBody,
    Positions,
    ShowBody,
    Sort,
    Target,
    with_filters,
)
from outbox.cli.dead_letter_reason import (
    FOR_BODIES,
    FOR_CHANGES,
    audit_of,
    audit_of_search,
)
from outbox.cli.interruptible import run_interruptible, run_query
from outbox.cli.second_person import Approval, approved
from outbox.dead_letters import queries, redaction, repair
from outbox.dead_letters.encrypted_letters import with_digests
from outbox.dead_letters.selection import Selection, confirm_all, selection
from outbox.dead_letters.source import DeadLetterSource
from outbox.dead_letters.store import Order
from outbox.runtime.service import ExitCode

EXIT_CODES = (
    "Exit status: 0 done, 1 dead letters were left or an error occurred, 2 bad options or "
    "settings, 3 database or broker unreachable, 5 a second person has to approve it first."
)

OpenSource = Callable[[str], DeadLetterSource]
"""Returns the source that a target names; ends the process with exit code 2 if none exists."""


def app(open_source: OpenSource, *, of_consumers: bool) -> typer.Typer:
    """Return the sub-command `dead`; its commands take a target only if *of_consumers*."""
    commands = DeadCommands(open_source)
    without = set() if of_consumers else {"target", "completed"}
    made = typer.Typer(
        name="dead",
        help="Read, repair, replay and drop dead letters.",
        epilog="See the page Retries and dead letters of the documentation. " + EXIT_CODES,
        no_args_is_help=True,
    )
    for name, command in commands.by_name().items():
        made.command(name)(with_filters(command, without=without))
    return made


class DeadCommands:
    """The commands on the dead letters of the source that *open_source* returns."""

    def __init__(self, open_source: OpenSource) -> None:
        self._open = open_source

    def by_name(self) -> dict[str, Callable[..., None]]:
        """Return each command with its name."""
        return {
            "list": self.list_letters,
            "show": self.show,
            "export": self.export,
            "replay": self.replay,
            "drop": self.drop,
        }

    def list_letters(
        self,
        *,
        target: Target = "",
        sort: Sort = Order.OLDEST,
        as_json: AsJson = False,
        because: Because = None,
        by: By = None,
        selected: Selection,
    ) -> None:
        """List dead letters, in groups by their cause and each by itself, without bodies."""
        source, selected = self._opened(target, selected)
        audit = audit_of_search(source, selected, because, by)
        self._warn_of_reason(source, selected)
        found = run_query(lambda: queries.listed(source, selected, audit, order=sort))
        if as_json:
            print_json(view.as_json(found))
            return
        view.groups(console, found.groups)
        view.letters(console, found.letters, now=found.now)
        more = "" if len(found.letters) == found.count else "; --limit shows more"
        console.print(f"{len(found.letters):,} of {found.count:,}{more}")

    def show(
        self,
        *,
        target: Target = "",
        id_: Id,
        body: ShowBody = False,
        decrypt: Decrypt = False,
        because: Because = None,
        by: By = None,
        approval: Approval = None,
    ) -> None:
        """Show a dead letter; its body and keys only with --body and --because."""
        source = self._open(target)
        chosen, body = selection({"ids": [id_]}), body or decrypt
        audit = audit_of(source, chosen, because, by, needed=FOR_BODIES) if body else None
        if audit is not None:
            audit = approved(source, audit, Action.SHOW_BODY, approval=approval, target=target)
        letter = run_query(lambda: queries.one(source, chosen, audit))
        view.letter(console, redaction.metadata(letter))
        if body:
            shown = run_query(lambda: operations.decrypted(source, letter)) if decrypt else letter
            view.letter(console, redaction.keys(letter) | redaction.private(shown))
            print(redaction.printable(redaction.readable_body(shown)))  # noqa: T201 - rich would fold it

    def export(
        self,
        *,
        target: Target = "",
        file: File,
        bodies: Bodies = False,
        because: Because = None,
        by: By = None,
        approval: Approval = None,
        selected: Selection,
    ) -> None:
        """Write dead letters to a new file as lines of JSON; bodies only with --bodies."""
        source, selected = self._opened(target, selected)
        if bodies:
            for_bodies = audit_of(source, selected, because, by, needed=FOR_BODIES)
            audit: Audit[Selection] | None = approved(
                source, for_bodies, Action.EXPORT_BODIES, approval=approval, target=target
            )
        else:
            audit = audit_of_search(source, selected, because, by)
        self._warn_of_reason(source, selected)
        to_stderr = Console(stderr=True)
        work = partial(
            export, source, selected, file, audit=audit, bodies=bodies, console=to_stderr
        )
        try:
            is_whole = run_interruptible(lambda stop: work(stop=stop))
        except ExportFailed as error:
            print(f"error: FILE: cannot be written ({error})", file=sys.stderr)  # noqa: T201
            is_whole = False
        _end(is_clean=is_whole)

    def replay(
        self,
        *,
        target: Target = "",
        positions: Positions = None,
        everything: Everything = False,
        because: BecauseOfChange = None,
        by: By = None,
        dry_run: DryRun = False,
        body: NewBody = None,
        approval: Approval = None,
        completed: Completed = False,
        selected: Selection,
    ) -> None:
        """Send dead letters to where they came from, and delete those that arrived."""
        del positions  # `with_filters` put them into the selection
        source, selected = self._opened(target, selected)
        confirm_all(selected, everything=everything)
        new_body = None if body is None else repair.read(body, selected)
        if dry_run:
            search = audit_of_search(source, selected, because, by)
            return self._count(source, selected, search, reprocess=completed)
        audit = audit_of(source, selected, because, by, needed=FOR_CHANGES)
        if new_body is not None:
            audit = approved(source, audit, Action.REPAIR, approval=approval, target=target)
        self._warn_of_reason(source, selected)
        request = ReplayRequest(audit=audit, reprocess=completed, body=new_body)
        summary = run_interruptible(lambda stop: operations.replay(source, request, console, stop))
        return _end(is_clean=summary.is_clean)

    def drop(
        self,
        *,
        target: Target = "",
        positions: Positions = None,
        everything: Everything = False,
        because: BecauseOfChange = None,
        by: By = None,
        dry_run: DryRun = False,
        selected: Selection,
    ) -> None:
        """Delete dead letters permanently."""
        del positions
        source, selected = self._opened(target, selected)
        confirm_all(selected, everything=everything)
        if dry_run:
            return self._count(source, selected, audit_of_search(source, selected, because, by))
        audit = audit_of(source, selected, because, by, needed=FOR_CHANGES)
        self._warn_of_reason(source, selected)
        summary = run_interruptible(
            lambda stop: operations.drop(source, ReplayRequest(audit=audit), console, stop)
        )
        return _end(is_clean=summary.is_clean)

    def _opened(self, target: str, selected: Selection) -> tuple[DeadLetterSource, Selection]:
        """The source, and *selected* with the digests of its key."""
        source = self._open(target)
        if selected.key is None:
            return source, selected
        return source, run_query(lambda: with_digests(source.keys, selected))

    def _warn_of_reason(self, source: DeadLetterSource, selected: Selection) -> None:
        """Warn of a reason that no dead letter has: it may be misspelt."""
        if selected.reason is None:
            return
        known = run_query(lambda: queries.reasons(source))
        if known and selected.reason not in known:
            there_are = redaction.printable(", ".join(known))
            warn([f"--reason: no dead letter has this reason; there are: {there_are}"])

    def _count(
        self,
        source: DeadLetterSource,
        selected: Selection,
        audit: Audit[Selection] | None,
        *,
        reprocess: bool | None = None,
    ) -> None:
        self._warn_of_reason(source, selected)
        counts = run_query(lambda: queries.counted(source, selected, audit))
        view.counts(console, counts, reprocess=reprocess)


def _end(*, is_clean: bool) -> None:
    if not is_clean:
        raise SystemExit(ExitCode.CRASHED)
