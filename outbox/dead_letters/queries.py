"""
Reading dead letters: lists, single ones, counts and exports.

Bodies and keys are returned only after the audit log has a committed row with the actor.
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
from outbox.dead_letters.source import READING, DeadLetterSource, OpenedSource, reading
from outbox.dead_letters.store import Span, TypeCount
from outbox.errors import ConfigurationError
from outbox.runtime.shield import commit

LIST_LIMIT = 100
"""Default number of dead letters in a list."""


async def listed(
    source: DeadLetterSource, selection: Selection, audit: Audit | None
) -> tuple[Sequence[Any], datetime, int]:
    """
    Return dead letters without bodies, the time of the database, and the number of matches.

    A selection by key needs *audit*.
    """
    async with source.opened(selection, audit) as opened:
        limited = replace(
            opened, selection=replace(selection, limit=selection.limit or LIST_LIMIT)
        )
        rows = [row async for page in pages(limited) for row in page]
        return rows, opened.snapshot.now, opened.count


async def one(source: DeadLetterSource, selection: Selection, audit: Audit | None) -> Any:
    """
    Return the dead letter that *selection* names; with its body only if *audit* is given.

    Raises ConfigurationError if it does not exist.
    """
    async with source.opened(selection) as opened:
        async for page in pages(opened, audit=audit, action=Action.SHOW_BODY):
            return page[0]
    raise ConfigurationError("--id: the dead letter was replayed or dropped meanwhile")


async def counted(
    source: DeadLetterSource, selection: Selection, audit: Audit | None
) -> tuple[list[TypeCount], int]:
    """
    Count the matches by type and reason, and those that consumers would drop as duplicates.

    A selection by key needs *audit*.
    """
    duplicates = 0
    rights = READING if source.duplicates is None else {**READING, **source.replay_rights}
    async with source.opened(selection, audit, rights=rights) as opened:
        if source.duplicates is not None:
            async for page in pages(opened):
                async with reading(opened.engine) as connection:
                    found = await source.duplicates.among(connection, page, hold=False)
                duplicates += len(found)
        return opened.type_counts, duplicates


async def pages(
    opened: OpenedSource, *, audit: Audit | None = None, action: Action = Action.EXPORT_BODIES
) -> AsyncIterator[Sequence[Any]]:
    """
    Yield the selected dead letters, a page at a time.

    They have bodies only with *audit*, which records each page and commits before the page is
    returned.
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
    where = opened.selection.where(opened.store.source, opened.snapshot)
    read = partial(opened.store.read, where=where, span=span)
    if audit is None:
        async with reading(opened.engine) as connection:
            return await read(connection, bodies=False)
    with driver_errors_translated(refusals=False):
        async with opened.engine.connect() as connection:
            page = await read(connection, bodies=True)
            if page:
                await audit.record(connection, action, len(page))
                await commit(connection)
            return page
