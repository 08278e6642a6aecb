"""
The keys of persons by the key that wraps them, and a run that wraps them by the current key.

    for each batch   read keys that need it, without a lock
                     ask the source for their new wrapped keys
                     BEGIN in the key database
                     lock the rows, skipping those that another transaction has locked
                     replace their wrapped keys
                     record their number in the audit log of the outbox, and commit there
                     COMMIT

Only active keys are changed: those that an erasure has marked are about to be destroyed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.audit.log import Action, Audit, StatedFilters
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.encryption.key_tables import ACTIVE, subject_keys
from outbox.encryption.keys import KeyProvider, WrappedKey
from outbox.key_operations.key_report import SubjectKeyCounts
from outbox.key_operations.rewrapping import Wanted
from outbox.key_operations.wrapped_again import Summary, wrapped_again
from outbox.key_store.engine import key_errors_translated
from outbox.runtime.shield import shielded

BATCH = 200
TABLE = subject_keys.name
_IS_ACTIVE = subject_keys.c.state == ACTIVE
_UNFINISHED = (subject_keys.c.state != ACTIVE) & subject_keys.c.announced_at.is_(None)


class _Row(NamedTuple):
    id: UUID
    wrapped: WrappedKey


async def counts(engine: AsyncEngine, *, setting: str) -> SubjectKeyCounts:
    """Return the numbers of keys of persons, with a sample of each; raises KeysUnavailable."""
    column = subject_keys.c
    number = sa.func.count().label("keys")
    with key_errors_translated(setting):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            grouped = sa.select(column.key_id, number).where(_IS_ACTIVE).group_by(column.key_id)
            by_key = {row.key_id: row.keys for row in await connection.execute(grouped)}
            samples = {key_id: await _sample(connection, key_id) for key_id in by_key}
            unfinished = await connection.scalar(sa.select(number).where(_UNFINISHED))
    return SubjectKeyCounts(by_key=by_key, samples=samples, unfinished=unfinished or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRun:
    """
    One call of the command on the keys of persons in the key database of *engine*.

    Args:
        setting: Begins each error about that database.
        outbox: The database with the audit log.
        stop: Ends the run after the current batch.
        on_progress: Called with the number of keys of each batch.

    """

    engine: AsyncEngine
    setting: str
    outbox: AsyncEngine
    keys: KeyProvider
    wanted: Wanted
    audit: Audit[StatedFilters]
    stop: asyncio.Event
    on_progress: Callable[[int], None]
    summary: Summary

    async def run(self) -> None:
        """Rewrap all of them; raises KeysUnavailable and DatabaseUnavailable at any time."""
        after: UUID | None = None
        while not self.stop.is_set():
            rows = await self._read(after)
            if not rows:
                return
            after = rows[-1].id
            self.summary.left.update(+await self._batch(rows))
        self.summary.interrupted = True

    async def _read(self, after: UUID | None) -> list[_Row]:
        column = subject_keys.c
        page = (
            sa.select(column.id, column.key_id, column.wrapped)
            .where(self._needed())
            .order_by(column.id)
            .limit(BATCH)
        )
        if after is not None:
            page = page.where(column.id > after)
        with key_errors_translated(self.setting):
            async with self.engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                found = await connection.execute(page)
                return [_Row(id_, WrappedKey(key_id, wrapped)) for id_, key_id, wrapped in found]

    def _needed(self) -> sa.ColumnElement[bool]:
        key_id = subject_keys.c.key_id
        needed = _IS_ACTIVE & (key_id != self.wanted.current)
        return needed if self.wanted.only is None else needed & (key_id == self.wanted.only)

    async def _batch(self, rows: Sequence[_Row]) -> Counter[str]:
        """Replace the wrapped keys of *rows*; returns those that were left, by their code."""
        new = await asyncio.to_thread(
            lambda: [wrapped_again(self.keys, each.wrapped) for each in rows]
        )
        pairs = list(zip(rows, new, strict=True))
        left = Counter(code for _, code in pairs if isinstance(code, str))
        changes = {
            row.id: (row.wrapped, wrapped)
            for row, wrapped in pairs
            if not isinstance(wrapped, str)
        }
        if changes:
            left["locked"] += len(changes) - await self._replace(changes)
        return left

    async def _replace(self, changes: dict[UUID, tuple[WrappedKey, WrappedKey]]) -> int:
        with key_errors_translated(self.setting):
            async with self.engine.connect() as connection:
                locked = await self._lock(connection, list(changes))
                if locked:
                    await connection.execute(
                        _UPDATE, [_change(id_, *changes[id_]) for id_ in locked]
                    )
                    await self._record(len(locked))
                    await shielded(self._commit(connection, len(locked)))
        return len(locked)

    async def _lock(self, connection: AsyncConnection, ids: Sequence[UUID]) -> list[UUID]:
        statement = (
            sa.select(subject_keys.c.id)
            .where(subject_keys.c.id.in_(ids), self._needed())
            .order_by(subject_keys.c.id)
            .with_for_update(skip_locked=True)
        )
        return list(await connection.scalars(statement))

    async def _record(self, keys: int) -> None:
        details = {"table": TABLE, "key": self.wanted.current}
        with driver_errors_translated(refusals=False):
            async with self.outbox.begin() as connection:
                await self.audit.record(connection, Action.KEYS_REWRAP, keys, details)

    async def _commit(self, connection: AsyncConnection, keys: int) -> None:
        await connection.commit()
        self.summary.done[TABLE] += keys
        self.on_progress(keys)


_UPDATE = (
    sa.update(subject_keys)
    .where(subject_keys.c.id == sa.bindparam("row"), subject_keys.c.wrapped == sa.bindparam("old"))
    .values(key_id=sa.bindparam("new_key_id"), wrapped=sa.bindparam("new"))
)


def _change(id_: UUID, old: WrappedKey, new: WrappedKey) -> dict[str, object]:
    return {"row": id_, "old": old.wrapped, "new_key_id": new.key_id, "new": new.wrapped}


async def _sample(connection: AsyncConnection, key_id: str) -> WrappedKey:
    one = sa.select(subject_keys.c.wrapped).where(_IS_ACTIVE, subject_keys.c.key_id == key_id)
    return WrappedKey(key_id, await connection.scalar(one.limit(1)) or b"")
