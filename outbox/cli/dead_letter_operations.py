"""
One run of `replay` or `drop`, with a progress bar and a summary.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from outbox.audit.log import Audit
from outbox.cli import dead_letter_view as view
from outbox.dead_letters import encrypted_letters, repair
from outbox.dead_letters.replay import Repair, Run, Summary
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import CHANGING, DeadLetterSource, OpenedSource, reading
from outbox.dead_letters.store import Span
from outbox.wire.encrypted import is_encrypted


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """
    The actor and the options of one run.

    Args:
        reprocess: Whether consumers process completed messages again.
        body: Replaces the body of the one dead letter.

    """

    audit: Audit[Selection]
    reprocess: bool = False
    body: bytes | None = None


async def replay(
    source: DeadLetterSource, request: ReplayRequest, console: Console, stop: asyncio.Event
) -> Summary:
    """Send dead letters to where they came from; print a summary even after an error."""
    rights = {**CHANGING, **source.replay_rights}
    if request.reprocess:
        rights |= source.reprocess_rights
    async with source.opened(request.audit.selection, request.audit, rights=rights) as opened:
        await check_body(opened, request.body)
        repair = None if request.body is None else repair_with(source, request.body)
        async with (
            source.destination() as destination,
            _run(opened, request, console, stop, verb="replayed") as run,
        ):
            await run.replay(
                destination,
                duplicates=source.duplicates,
                reprocess=request.reprocess,
                repair=repair,
            )
            return run.summary


async def drop(
    source: DeadLetterSource, request: ReplayRequest, console: Console, stop: asyncio.Event
) -> Summary:
    """Delete dead letters; print a summary even after an error."""
    async with (
        source.opened(request.audit.selection, request.audit, rights=CHANGING) as opened,
        _run(opened, request, console, stop, verb="dropped") as run,
    ):
        await run.drop()
        return run.summary


async def decrypted(source: DeadLetterSource, letter: Any) -> dict[str, Any]:
    """
    Return *letter* with its decrypted body, and what else was encrypted as `private`.

    One that is not encrypted is returned as it is. Raises ConfigurationError and KeysUnavailable.
    """
    if not is_encrypted(letter["content_encoding"]):
        return dict(letter)
    found = await encrypted_letters.decrypted(source.keys, source.envelope_of, letter)
    private = {"correlation_id": found.correlation_id, "headers": found.headers}
    return {**letter, "body": found.body, "content_encoding": None, "private": private}


def repair_with(source: DeadLetterSource, body: bytes) -> Repair:
    """Return how the body of a dead letter of *source* is replaced with *body*."""

    async def repaired(letter: Any) -> Mapping[str, Any]:
        return await encrypted_letters.sealed(source.keys, source.envelope_of, letter, body)

    return repaired


async def check_body(opened: OpenedSource, body: bytes | None) -> None:
    """Raise ConfigurationError if *body* contradicts the content type of the dead letter."""
    if body is None:
        return
    where = opened.selection.where(opened.store.source, opened.snapshot)
    async with reading(opened.engine) as connection:
        found = await opened.store.read(connection, where=where, span=Span(0, 1), bodies=False)
    for letter in found:
        repair.check(body, letter["content_type"])


@asynccontextmanager
async def _run(
    opened: OpenedSource,
    request: ReplayRequest,
    console: Console,
    stop: asyncio.Event,
    *,
    verb: str,
) -> AsyncIterator[Run]:
    summary = Summary()
    try:
        with view.bar(console) as bar:
            task = bar.add_task(verb, total=opened.count)
            yield Run(
                engine=opened.engine,
                store=opened.store,
                snapshot=opened.snapshot,
                audit=request.audit,
                stop=stop,
                on_progress=lambda number: bar.advance(task, number),
                summary=summary,
            )
    finally:
        view.outcome(console, verb, summary, selected=opened.count)
