"""
What both databases share: selecting what to claim, settling it, promoting due rows, looking at the
backlog.

Every statement has its home here, in `ready.py`, or in the file of its database, and all are built
on the one definition of the tables.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.runtime.engine import answering
from outbox.tables import database_now, dead_letters, now_plus, outbox
from relay.storage.base import Backlog, Row
from relay.storage.lowwater import FROM_THE_BEGINNING, LowWater
from relay.storage.ready import (
    NONE_LEFT,
    READY,
    UNKEYED_CANDIDATES,
    VISIT,
    VISIT_AFTER,
    Heads,
    choose_heads,
    measured,
    ready_prefixes,
    rows_of_a_key,
    with_news_of_keys,
)
from relay.verdict import Delete, GiveUp, Leave, Retry, Verdict

PROMOTE_LIMIT = 1_000
SOURCE = "relay"

_RETRY = (
    sa.update(outbox)
    .where(outbox.c.id == sa.bindparam("row"))
    .values(
        attempts=outbox.c.attempts + 1,
        last_error=sa.bindparam("code"),
        not_before=now_plus(sa.bindparam("seconds", type_=sa.Double)),
    )
)

_ENVELOPE_COLUMNS = (
    "type",
    "exchange",
    "routing_key",
    "ordering_key",
    "idempotency_key",
    "correlation_id",
    "priority",
    "headers",
    "content_type",
    "content_encoding",
    "body",
    "occurred_at",
)


@dataclass(frozen=True, slots=True)
class Selection:
    """
    What a claim has found.

    Args:
        rows: In order of insertion.
        more: Whether there may be more right now.
        cut: Whether rows without a key were found that do not fit.

    """

    rows: list[Row]
    more: bool = False
    cut: bool = False


class SqlStore(ABC):
    """
    The outbox in a SQL database; subclasses say how a claim is held.

    *patience* is how long the database may take for an answer; it comes on top of its own limits.
    """

    unkeyed = with_news_of_keys(measured(UNKEYED_CANDIDATES))
    of_keys: sa.Select[Any]
    only_reading: ClassVar[Mapping[str, Any]]
    """Execution options for statements that belong to no transaction and take no lock."""

    def __init__(self, engine: AsyncEngine, *, patience: timedelta) -> None:
        self._engine = engine
        self._patience = patience
        self._low_water = LowWater(time.monotonic)
        self._visited_until: str | None = None
        self._keyed_of_last = 0

    async def promote(self) -> int:
        due = self._due()
        async with answering(self._patience):
            async with self._engine.connect() as connection:
                await connection.execution_options(**self.only_reading)
                # Mostly nothing is due, and a look takes no lock.
                if (await connection.execute(due.limit(1))).first() is None:
                    return 0
            async with self._engine.begin() as connection:
                result = await connection.execute(
                    sa.update(outbox)
                    .where(outbox.c.id.in_(self._due_to_promote()))
                    .values(not_before=None)
                )
        self._low_water.released()
        return result.rowcount

    async def backlog(self) -> Backlog:
        oldest = sa.select(outbox.c.created_at).where(READY).order_by(outbox.c.id).limit(1)
        async with answering(self._patience), self._engine.connect() as connection:
            await connection.execution_options(**self.only_reading)
            rows = await self._count(connection)
            now = await connection.scalar(sa.select(database_now()))
            first = await connection.scalar(oldest)
            age = now - first if now is not None and first is not None else timedelta(0)
            dead, snapshot = await self._debris(connection)
        return Backlog(rows, max(age, timedelta(0)), dead, snapshot)

    async def select(self, connection: AsyncConnection, *, limit: int, size: int) -> Selection:
        """The rows of a claim."""
        # Neither kind starves the other: as many rows as there were with keys may come again.
        reserved = min(limit // 2, 2 * self._keyed_of_last)
        unkeyed, there_are_keys = await self._unkeyed(
            connection, limit=limit - reserved, size=size if not reserved else max(size // 2, 1)
        )
        if not there_are_keys:
            self._keyed_of_last = 0
            return unkeyed
        used = sum(len(row.values["body"]) for row in unkeyed.rows)
        keyed = await self._keyed(
            connection,
            limit=limit - len(unkeyed.rows),
            size=max(size - used, 1),
            beside=len(unkeyed.rows),
        )
        self._keyed_of_last = max(len(keyed.rows), 1)
        return Selection(
            sorted(unkeyed.rows + keyed.rows, key=lambda row: row.id),
            more=unkeyed.more or keyed.more,
            cut=unkeyed.cut,
        )

    async def _unkeyed(
        self, connection: AsyncConnection, *, limit: int, size: int
    ) -> tuple[Selection, bool]:
        above = self._low_water.begin()
        found, there_are_keys = await self._read_unkeyed(connection, above, limit, size)
        if not found.rows and above != FROM_THE_BEGINNING:
            found, there_are_keys = await self._read_unkeyed(
                connection, FROM_THE_BEGINNING, limit, size
            )
        return found, there_are_keys

    async def _read_unkeyed(
        self, connection: AsyncConnection, above: int, limit: int, size: int
    ) -> tuple[Selection, bool]:
        began = self._low_water.clock()
        values = await self._read(
            connection, self.unkeyed, {"above": above, "rows": limit, "bytes": size}
        )
        there_are_keys = bool(values[0]["keyed"])
        rows = [_to_row(row) for row in values if row["id"] is not None]
        candidates = values[0]["found"] or 0
        cut = candidates > len(rows)
        full = cut or candidates == limit
        last = rows[-1].id if rows else None
        self._low_water.scanned(above, last=last, full=full, began=began)
        return Selection(rows, more=full, cut=cut), there_are_keys

    async def _keyed(
        self, connection: AsyncConnection, *, limit: int, size: int, beside: int
    ) -> Selection:
        """Rows with a key, for a batch with so many others *beside* them."""
        if not limit:
            return Selection([], more=True)
        after = self._visited_until
        heads = await self._visit(connection, limit, after)
        if after is not None and heads == NONE_LEFT:
            after = None
            heads = await self._visit(connection, limit, after)
        self._visited_until = heads.last
        # Until a visit has gone from the first key to the last, there may be others.
        more = heads.last is not None or after is not None
        if not heads.ids:
            return Selection([], more=more)
        each = rows_of_a_key(len(heads.ids), limit=limit, beside=beside)
        values = await self._read(
            connection, self.of_keys, {**self._parameters(heads.ids), "rows": each, "bytes": size}
        )
        rows = [_to_row(row) for row in values]
        cut = values[0]["found"] > len(rows) if values else False
        longest = max(Counter(row.ordering_key for row in rows).values(), default=0)
        return Selection(ready_prefixes(rows), more=more or cut or longest == each, cut=cut)

    async def _visit(self, connection: AsyncConnection, limit: int, after: str | None) -> Heads:
        visited = await connection.execute(
            VISIT if after is None else VISIT_AFTER, {"visits": limit, "after": after}
        )
        return choose_heads(visited, visits=limit)

    async def _read(
        self, connection: AsyncConnection, statement: sa.Select[Any], parameters: dict[str, Any]
    ) -> list[dict[str, Any]]:
        result = await connection.execute(statement, parameters)
        columns = tuple(result.keys())
        return [dict(zip(columns, values, strict=True)) for values in result]

    async def settle(self, connection: AsyncConnection, verdicts: Sequence[Verdict]) -> None:
        """Carry out *verdicts* in the open transaction of *connection*."""
        gone = [verdict.row.id for verdict in verdicts if isinstance(verdict, Delete | GiveUp)]
        dead = [_dead_letter(verdict) for verdict in verdicts if isinstance(verdict, GiveUp)]
        later = [_retry(verdict) for verdict in verdicts if isinstance(verdict, Retry)]
        if dead:
            await connection.execute(sa.insert(dead_letters), dead)
        if gone:
            await connection.execute(sa.delete(outbox).where(self._among(gone)))
        if later:
            await connection.execute(_RETRY, later)

    def _due(self) -> sa.Select[tuple[int]]:
        return (
            sa.select(outbox.c.id)
            .where(outbox.c.not_before.is_not(None), outbox.c.not_before <= database_now())
            .order_by(outbox.c.not_before)
        )

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return self._due().limit(PROMOTE_LIMIT)

    @abstractmethod
    def _parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        """*heads* as parameters of `of_keys`."""

    async def _count(self, connection: AsyncConnection) -> int:
        """How many rows there are."""
        return await connection.scalar(sa.select(sa.func.count()).select_from(outbox)) or 0

    def _among(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        return outbox.c.id.in_(ids)

    async def _debris(self, connection: AsyncConnection) -> tuple[int | None, timedelta | None]:
        del connection
        return None, None


def changes_something(verdicts: Iterable[Verdict]) -> bool:
    """Whether there is anything to write."""
    return not all(isinstance(verdict, Leave) for verdict in verdicts)


def lets_go(verdicts: Iterable[Verdict]) -> bool:
    """Whether rows without a key are ready again, behind those of the next claim."""
    return any(
        isinstance(verdict, Leave) and verdict.row.ordering_key is None for verdict in verdicts
    )


def _to_row(values: Mapping[str, Any]) -> Row:
    """A claimed row out of a database row."""
    return Row(
        id=values["id"],
        ordering_key=values["ordering_key"],
        attempts=values["attempts"],
        created_at=values["created_at"],
        values=values,
    )


def _retry(verdict: Retry) -> dict[str, Any]:
    return {
        "row": verdict.row.id,
        "code": verdict.code,
        "seconds": verdict.delay.total_seconds(),
    }


def _dead_letter(verdict: GiveUp) -> dict[str, Any]:
    values = verdict.row.values
    return {
        "source": SOURCE,
        "reason": verdict.code,
        "attempts": verdict.row.attempts + 1,
        "message_id": str(values["event_id"]),
        "first_at": verdict.row.created_at,
        **{name: values[name] for name in _ENVELOPE_COLUMNS},
    }
