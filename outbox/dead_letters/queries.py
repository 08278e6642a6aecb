"""
Reading dead letters: lists, single ones, counts and exports.

Bodies and keys are returned only after the audit log has a committed row with the actor.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from outbox.audit.log import Action, Audit
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.replay import BATCH
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.source import READING, DeadLetterSource, OpenedSource, reading
from outbox.dead_letters.store import LetterGroup, Order, Span
from outbox.errors import ConfigurationError
from outbox.runtime.shield import commit

LIST_LIMIT = 100
"""Default number of dead letters in a list."""


@dataclass(frozen=True, slots=True)
class Listing:
    """
    Dead letters without bodies, at the time *now* of the database.

    Args:
        groups: All that the selection matches, by their cause.

    """

    letters: Sequence[Any]
    groups: Sequence[LetterGroup]
    now: datetime

    @property
    def count(self) -> int:
        """The number of matches."""
        return sum(group.letters for group in self.groups)


async def listed(
    source: DeadLetterSource,
    selection: Selection,
    audit: Audit[Selection] | None,
    *,
    order: Order = Order.OLDEST,
) -> Listing:
    """
    List the dead letters that *selection* matches, in *order*; its limit is not for the groups.

    A selection by key needs *audit*.
    """
    everything = replace(selection, limit=None)
    async with source.opened(everything, audit) as opened, reading(opened.engine) as connection:
        letters = await opened.store.listed(
            connection,
            where=everything.where(opened.store.source, opened.snapshot),
            order=order,
            limit=LIST_LIMIT if selection.limit is None else selection.limit,
        )
    return Listing(letters, opened.groups, opened.snapshot.now)


async def reasons(source: DeadLetterSource) -> list[str]:
    """Return the reasons of all dead letters of *source*, sorted."""
    async with (
        source.opened(Selection(limit=1)) as opened,
        reading(opened.engine) as connection,
    ):
        return [each.reason for each in await opened.store.reason_counts(connection)]


async def one(
    source: DeadLetterSource, selection: Selection, audit: Audit[Selection] | None
) -> Any:
    """
    Return the dead letter that *selection* names; with its body only if *audit* is given.

    Raises ConfigurationError if it does not exist.
    """
    async with source.opened(selection) as opened:
        async for page in pages(opened, audit=audit, action=Action.SHOW_BODY):
            return page[0]
    raise ConfigurationError("--id: the dead letter was replayed or dropped meanwhile")


@dataclass(frozen=True, slots=True)
class Counts:
    """
    How many dead letters a selection matches.

    Args:
        groups: All of them, by their cause.
        duplicates: Those that consumers would drop as duplicates.
        expired: Those whose body has expired, so that a replay leaves them.

    """

    groups: Sequence[LetterGroup]
    duplicates: int
    expired: int


async def counted(
    source: DeadLetterSource, selection: Selection, audit: Audit[Selection] | None
) -> Counts:
    """Count the matches; a selection by key needs *audit*."""
    duplicates = 0
    rights = READING if source.duplicates is None else {**READING, **source.replay_rights}
    async with source.opened(selection, audit, rights=rights) as opened:
        if source.duplicates is not None:
            async for page in pages(opened):
                async with reading(opened.engine) as connection:
                    found = await source.duplicates.among(connection, page, hold=False)
                duplicates += len(found)
        async with reading(opened.engine) as connection:
            expired = await opened.store.expired(connection, selection, opened.snapshot)
        return Counts(opened.groups, duplicates, expired)


async def pages(
    opened: OpenedSource,
    *,
    audit: Audit[Selection] | None = None,
    action: Action = Action.EXPORT_BODIES,
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
    opened: OpenedSource, span: Span, audit: Audit[Selection] | None, action: Action
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
