"""
Looking at dead letters: lists, single ones, counts, exports.

Bodies and keys are given out only after it is written down, and committed, who asked for them.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.audit import Action, Audit
from outbox.dead_letters.replay import BATCH
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import DeadLetterSource, OpenedSource, reading
from outbox.dead_letters.store import Span, TypeCount
from outbox.errors import ConfigurationError
from outbox.runtime.shield import commit

LISTED = 100
"""How many letters are listed if nobody says how many."""


async def listed(
    source: DeadLetterSource, selection: Selection
) -> tuple[Sequence[Any], datetime, int]:
    """Letters without bodies, the database's time, and how many there are in all."""
    async with source.opened(selection) as opened:
        few = replace(opened, selection=replace(selection, limit=selection.limit or LISTED))
        rows = [row async for page in pages(few) for row in page]
        return rows, opened.snapshot.now, opened.count


async def one(source: DeadLetterSource, selection: Selection, audit: Audit | None) -> Any:
    """
    The letter that *selection* names; with its body if *audit* says who wants it.

    Raises ConfigurationError if it is not there.
    """
    async with source.opened(selection) as opened:
        async for page in pages(opened, audit=audit, action=Action.SHOW_BODY):
            return page[0]
    raise ConfigurationError("--id: the letter has just left")


async def counted(source: DeadLetterSource, selection: Selection) -> tuple[list[TypeCount], int]:
    """How many are meant, by type and reason, and how many of them would have no effect."""
    duplicates = 0
    async with source.opened(selection) as opened:
        if source.duplicates is not None:
            async for page in pages(opened):
                async with reading(opened.engine) as connection:
                    among = await source.duplicates.among(connection, page, hold=False)
                duplicates += len(among)
        return opened.tallies, duplicates


async def pages(
    opened: OpenedSource, *, audit: Audit | None = None, action: Action = Action.EXPORT_BODIES
) -> AsyncIterator[Sequence[Any]]:
    """
    The letters that are meant, some at a time.

    They have bodies only with an *audit*, which then has a row for each page, committed before it
    is given out.
    """
    left = opened.count if opened.selection.limit is None else opened.selection.limit
    after = 0
    while left > 0:
        page = await _page(opened, Span(after, min(left, BATCH)), audit, action)
        if not page:
            return
        yield page
        after = page[-1]["id"]
        left -= len(page)


async def _page(
    opened: OpenedSource, span: Span, audit: Audit | None, action: Action
) -> Sequence[Any]:
    where = opened.selection.where(opened.letters.source, opened.snapshot)
    look = partial(opened.letters.look, where=where, span=span)
    if audit is None:
        async with reading(opened.engine) as connection:
            return await look(connection, bodies=False)
    with driver_errors_translated(refusals=False):
        async with opened.engine.connect() as connection:
            page = await look(connection, bodies=True)
            if page:
                await audit.record(connection, action, len(page))
                await commit(connection)
            return page
