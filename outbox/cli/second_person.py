"""
The option `--approval`, and the command `approve`: an act that needs a second person.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, TypeVar

import typer

from outbox.audit import approvals
from outbox.audit.approvals import Asked
from outbox.audit.log import Action, Audit, user_and_host
from outbox.cli.console import console
from outbox.cli.dead_letter_options import By, Target
from outbox.cli.interruptible import run_query
from outbox.database import migrate, privileges, row_access
from outbox.dead_letters.redaction import printable
from outbox.dead_letters.selection import Selection, whole_number, words
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import ApprovalNeeded, ConfigurationError
from outbox.runtime.service import ExitCode

Result = TypeVar("Result")

Approval = Annotated[
    str | None,
    typer.Option(metavar="N", help="The request that a second person has approved."),
]
Number = Annotated[str, typer.Argument(metavar="N", help="The number of the request.")]
Because = Annotated[
    str, typer.Option(metavar="TEXT", help="Why you approve it; stored in the table audit_log.")
]


def approved(
    source: DeadLetterSource,
    audit: Audit[Selection],
    action: Action,
    *,
    approval: str | None,
    target: str,
) -> Audit[Selection]:
    """
    Use the *approval* of *action*, if MQ_TWO_PERSON asks for one, and return the audit with it.

    Without one the process records a request, says how a colleague approves it, and ends with exit
    code 5. Raises ConfigurationError if the approval is not needed.
    """

    async def asked(number: int | None) -> Audit[Selection]:
        # Ids that do not exist are refused first; a selection by key is refused afterwards.
        named = replace(audit.selection, key=None)
        async with source.opened(named, rights=approvals.RIGHTS) as opened:
            await privileges.verify(opened.engine, approvals.RIGHTS)
            return await approvals.required(opened.engine, audit, action, approval=number)

    used = with_approval(asked, two_person=source.two_person, approval=approval, target=target)
    return audit if used is None else used


def with_approval(
    asked: Callable[[int | None], Awaitable[Result]],
    *,
    two_person: bool,
    approval: str | None,
    target: str,
) -> Result | None:
    """
    Return the result of *asked*, which gets the number of the *approval*; None if none is needed.

    If *asked* raises ApprovalNeeded, say how to approve it, and end with exit code 5.
    Raises ConfigurationError if the approval is not needed.
    """
    number = None if approval is None else whole_number("--approval", approval)
    if not two_person:
        if number is not None:
            raise ConfigurationError("--approval: is needed only while MQ_TWO_PERSON is set")
        return None
    try:
        return run_query(lambda: asked(number))
    except ApprovalNeeded as needed:
        say_how_to_approve(needed, target)
        raise SystemExit(ExitCode.APPROVAL_NEEDED) from None


def say_how_to_approve(needed: ApprovalNeeded, target: str) -> None:
    """Print the command with which a second person approves a request."""
    command = f"consumer approve {target}" if target else "relay approve"
    print(  # noqa: T201 - standard output is for the bodies
        f"{needed}, within a day:\n"
        f"    {command} {needed.number} --because TEXT\n"
        f"Then run this command again, within an hour, with --approval {needed.number}",
        file=sys.stderr,
    )


def approve_command(open_source: Callable[[str], DeadLetterSource]) -> Callable[..., None]:
    """Return the command `approve` for the database of the source that *open_source* returns."""

    def approve(*, target: Target = "", number: Number, because: Because, by: By = None) -> None:
        """Approve, as a second person, what a colleague has asked for."""
        chosen = whole_number("N", number)
        actor = words("--by", user_and_host() if by is None else by, needed="is empty")
        reason = words("--because", because, needed="is needed: give the reason, which is stored")
        source = open_source(target)

        async def work() -> Asked:
            async with source.database() as engine:
                await migrate.verify(engine)
                await privileges.verify(engine, approvals.RIGHTS)
                await row_access.verify(engine, approvals.RIGHTS)
                return await approvals.approve(engine, chosen, actor=actor, because=reason)

        allowed = run_query(work)
        said = (
            f"approved {chosen}: {allowed.action} of {allowed.source},"
            f" selection {allowed.selection}; it can be used once, within an hour"
        )
        console.print(printable(said), markup=False, highlight=False)

    return approve
