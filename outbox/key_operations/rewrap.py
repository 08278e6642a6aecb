"""
A run that gives rows the current key: each data key is unwrapped, and wrapped by that key.

    for each batch   read the begin of bodies that need it, without a lock
                     ask the source for wrapped keys that were not seen before
                     BEGIN
                     lock the rows, skipping those that another transaction has locked
                     replace their wrapped keys, record their number
                     COMMIT

No body is decrypted. A run may end at any point: the rows of later batches keep the old key, and
the next run takes them. Rows that were locked are taken by another pass of the same run.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action, Audit, StatedFilters
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.source import reading
from outbox.encryption import body_format
from outbox.encryption.keys import KeyProvider, WrappedKey
from outbox.errors import UnreadableMessage
from outbox.key_operations import rewrapping
from outbox.key_operations.key_usage import TABLES, BodyTable
from outbox.key_operations.rewrapping import Head, Rewrapped, Wanted
from outbox.key_operations.wrapped_again import Summary, wrapped_again
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded

BATCH = 500
PASSES_EVERY = timedelta(milliseconds=200)
WAITS_FOR_LOCKS = timedelta(seconds=15)
"""A relay holds the rows of a batch while it publishes, and then they are deleted."""
LOCKED = "locked"
MALFORMED = "malformed"
TOO_LARGE = "too_large"
"""The new wrapped key is longer, and the body would have more bytes than the table allows."""


class WrappedAgain:
    """Wraps data keys by the current key of *keys*; remembers each, as many rows share one."""

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys
        self._known: dict[WrappedKey, WrappedKey | str] = {}

    async def load(self, wanted: Iterable[WrappedKey]) -> None:
        """Ask the source for those that are not known, in a thread; raises KeysUnavailable."""
        missing = [each for each in dict.fromkeys(wanted) if each not in self._known]
        if missing:
            self._known.update(await asyncio.to_thread(self._ask, missing))

    def of(self, wrapped: WrappedKey) -> WrappedKey | str:
        """Return the new wrapped key, or the code why there is none."""
        return self._known[wrapped]

    def _ask(self, missing: Sequence[WrappedKey]) -> dict[WrappedKey, WrappedKey | str]:
        return {each: wrapped_again(self._keys, each) for each in missing}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One call of the command on the rows that are *wanted*.

    Args:
        stop: Ends the run after the current batch.
        on_progress: Called with the number of rows of each batch.
        clock: Seconds that never go back.

    """

    engine: AsyncEngine
    wrapped: WrappedAgain
    wanted: Wanted
    audit: Audit[StatedFilters]
    stop: asyncio.Event
    on_progress: Callable[[int], None]
    summary: Summary = field(default_factory=Summary)
    clock: Callable[[], float] = time.monotonic

    async def rows(self) -> int:
        """Return the number of rows that need another wrapped key."""
        async with reading(self.engine) as connection:
            return sum([await rewrapping.count(connection, each, self.wanted) for each in TABLES])

    async def run(self) -> None:
        """Rewrap all of them; raises DatabaseUnavailable and KeysUnavailable at any time."""
        for each in TABLES:
            until = self.clock() + WAITS_FOR_LOCKS.total_seconds()
            left = await self._pass(each)
            while left[LOCKED] and self.clock() < until and not self.stop.is_set():
                await pause(self.stop, PASSES_EVERY)
                left = await self._pass(each)
            self.summary.left.update(left)
            if self.stop.is_set():
                self.summary.interrupted = True
                return

    async def _pass(self, each: BodyTable) -> Counter[str]:
        """Take the rows of a table once, in the order of ids; returns those that were left."""
        left: Counter[str] = Counter()
        after = 0
        while not self.stop.is_set():
            async with reading(self.engine) as connection:
                heads = await rewrapping.read(
                    connection, each, self.wanted, after=after, limit=BATCH
                )
            if not heads:
                break
            after = heads[-1].id
            left.update(await self._batch(each, heads))
        return +left

    async def _batch(self, each: BodyTable, heads: Sequence[Head]) -> Counter[str]:
        wrapped = [(head, wrapped_key(head.start)) for head in heads]
        await self.wrapped.load(key for _, key in wrapped if key is not None)
        left: Counter[str] = Counter()
        parts: dict[int, Rewrapped] = {}
        for head, key in wrapped:
            new = MALFORMED if key is None else self._part(head, key)
            if isinstance(new, str):
                left[new] += 1
            else:
                parts[head.id] = new
        if parts:
            left[LOCKED] += len(parts) - await self._replace(each, parts)
        return left

    def _part(self, head: Head, key: WrappedKey) -> Rewrapped | str:
        """The new key part of *head*, or the code why it keeps the old one."""
        new = self.wrapped.of(key)
        if isinstance(new, str):
            return new
        part = Rewrapped(body_format.key_part(*key), body_format.key_part(*new))
        return part if part.fits(head.size) else TOO_LARGE

    async def _replace(self, each: BodyTable, parts: dict[int, Rewrapped]) -> int:
        """Replace the key parts in a transaction; returns the number of rows."""
        with driver_errors_translated(refusals=False):
            async with self.engine.connect() as connection:
                locked = await rewrapping.lock(connection, each, self.wanted, list(parts))
                if locked:
                    chosen = {id_: parts[id_] for id_ in locked}
                    await rewrapping.replace(connection, each, chosen)
                    await self.audit.record(
                        connection,
                        Action.KEYS_REWRAP,
                        len(locked),
                        {"table": each.name, "key": self.wanted.current},
                    )
                    await shielded(self._commit(connection, each, len(locked)))
        return len(locked)

    async def _commit(self, connection: Any, each: BodyTable, rows: int) -> None:
        await connection.commit()
        self.summary.done[each.name] += rows
        self.on_progress(rows)


def wrapped_key(start: bytes) -> WrappedKey | None:
    """Return the wrapped data key of the body that begins with *start*; None if it is no body."""
    try:
        body = body_format.parse(start)
    except UnreadableMessage:
        return None
    return WrappedKey(body.key_id, body.wrapped_key)
