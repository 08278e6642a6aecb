"""
The commands that make letters leave: their runs, with a progress bar and a last word.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

from outbox.cli import dead_letter_view as display
from outbox.dead_letters import repair
from outbox.dead_letters.audit import Audit
from outbox.dead_letters.replay import Run, Summary
from outbox.dead_letters.source import DeadLetterSource, OpenedSource, reading
from outbox.dead_letters.store import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """
    What is to be done, on whose account.

    Args:
        rerun: Have completed messages take effect once more.
        body: Replaces that of the one letter.

    """

    audit: Audit
    rerun: bool = False
    body: bytes | None = None


async def replay(
    source: DeadLetterSource, order: ReplayRequest, console: Console, stop: asyncio.Event
) -> Summary:
    """Send letters where they came from; says what has come of it even if it fails midway."""
    async with source.opened(order.audit.selection) as opened:
        await check_body(opened, order.body)
        async with (
            source.destination() as destination,
            _run(opened, order, console, stop, verb="replayed") as run,
        ):
            await run.replay(
                destination, duplicates=source.duplicates, rerun=order.rerun, body=order.body
            )
            return run.summary


async def drop(
    source: DeadLetterSource, order: ReplayRequest, console: Console, stop: asyncio.Event
) -> Summary:
    """Delete letters; says how many even if it fails midway."""
    async with (
        source.opened(order.audit.selection) as opened,
        _run(opened, order, console, stop, verb="dropped") as run,
    ):
        await run.drop()
        return run.summary


async def check_body(opened: OpenedSource, body: bytes | None) -> None:
    """Raises ConfigurationError if *body* does not fit the letters that it shall be of."""
    if body is None:
        return
    where = opened.selection.where(opened.letters.source, opened.snapshot)
    async with reading(opened.engine) as connection:
        found = await opened.letters.look(connection, where=where, span=Span(0, 1), bodies=False)
    for letter in found:
        repair.check(body, letter["content_type"])


@asynccontextmanager
async def _run(
    opened: OpenedSource, order: ReplayRequest, console: Console, stop: asyncio.Event, *, verb: str
) -> AsyncIterator[Run]:
    summary = Summary()
    try:
        with display.bar(console) as bar:
            task = bar.add_task(verb, total=opened.count)
            yield Run(
                engine=opened.engine,
                letters=opened.letters,
                snapshot=opened.snapshot,
                audit=order.audit,
                stop=stop,
                told=lambda letters: bar.advance(task, letters),
                summary=summary,
            )
    finally:
        display.outcome(console, verb, summary, selected=opened.count)
