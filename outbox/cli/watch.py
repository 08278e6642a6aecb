"""
The command `watch`: copies of messages that pass an exchange.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import typer

from outbox.audit import approvals
from outbox.audit.log import Action, Audit, user_and_host
from outbox.cli import watch_view
from outbox.cli.console import print_json
from outbox.cli.dead_letter_options import Because, By
from outbox.cli.dead_letter_reason import FOR_BODIES
from outbox.cli.interruptible import run_interruptible
from outbox.cli.second_person import Approval, with_approval
from outbox.cli.start import fail
from outbox.database import migrate, privileges, row_access
from outbox.dead_letters.selection import words
from outbox.errors import ConfigurationError
from outbox.watching.request import (
    SOURCE,
    WatchedMessages,
    WatchRequest,
    WatchSource,
    watched_messages,
)
from outbox.watching.watch import pages

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATTERN", help="Patterns of routing keys, such as health.#; all by default."
    ),
]
ExchangeName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The exchange; by default the one of MQ_MAIN_EXCHANGE."),
]
WithBodies = Annotated[bool, typer.Option("--body", help="Add bodies and keys; needs --because.")]
Decrypted = Annotated[
    bool,
    typer.Option(
        "--decrypt", help="Like --body, and decrypt encrypted ones with MQ_ENCRYPTION_KEYS."
    ),
]
Lines = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each message.")]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="End after N messages; default is never.")
]
Seconds = Annotated[
    float | None,
    typer.Option(min=0.1, max=86_400, metavar="N", help="End after N seconds; default is never."),
]


def watch_command(open_source: Callable[[], WatchSource]) -> Callable[..., None]:
    """Return the command `watch` for the broker of the source that *open_source* returns."""

    def watch(
        patterns: Patterns = None,
        *,
        exchange: ExchangeName = None,
        body: WithBodies = False,
        decrypt: Decrypted = False,
        because: Because = None,
        by: By = None,
        approval: Approval = None,
        as_json: Lines = False,
        limit: Limit = None,
        seconds: Seconds = None,
    ) -> None:
        """Show copies of the messages that pass an exchange; take none from a consumer."""
        try:
            source = open_source()
            name = source.main_exchange if exchange is None else exchange
            messages = watched_messages(name, patterns or [])
            audit = None
            if body or decrypt:
                audit = _audit_of(messages, because, by)
                audit = _approved(source, audit, approval)
        except ConfigurationError as error:
            fail(error)
        request = WatchRequest(
            messages=messages,
            audit=audit,
            decrypt=decrypt,
            limit=limit,
            within=None if seconds is None else timedelta(seconds=seconds),
        )
        run_interruptible(partial(_run, source, request, _json if as_json else watch_view.show))

    return watch


async def _run(
    source: WatchSource,
    request: WatchRequest,
    show: Callable[[Sequence[Mapping[str, Any]]], None],
    stop: asyncio.Event,
) -> None:
    missed = 0
    try:
        async with aclosing(pages(source, request, stop)) as found:
            async for page in found:
                missed = page.missed
                if page.copies:
                    # A terminal or a pipe may wait for its reader, while other copies arrive.
                    await asyncio.to_thread(show, page.copies)
                else:
                    _say(f"watching {request.messages.exchange or 'the default exchange'}")
    finally:
        if missed:
            _say(f"warning: at least {missed:,} were not shown: they came faster than this output")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - standard output is for the messages


def _json(copies: Sequence[Mapping[str, Any]]) -> None:
    for each in copies:
        print_json(each)
    sys.stdout.flush()


def _audit_of(
    messages: WatchedMessages, because: str | None, by: str | None
) -> Audit[WatchedMessages]:
    return Audit(
        actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
        because=words("--because", because, needed=FOR_BODIES),
        source=SOURCE,
        selection=messages,
    )


def _approved(
    source: WatchSource, audit: Audit[WatchedMessages], approval: str | None
) -> Audit[WatchedMessages]:
    async def asked(number: int | None) -> Audit[WatchedMessages]:
        async with source.database() as engine:
            await migrate.verify(engine)
            await privileges.verify(engine, approvals.RIGHTS)
            await row_access.verify(engine, approvals.RIGHTS)
            return await approvals.required(engine, audit, Action.WATCH_BODIES, approval=number)

    used = with_approval(
        asked, two_person=source.two_person, approval=approval, target="MODULE:NAME"
    )
    return audit if used is None else used
