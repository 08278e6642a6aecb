"""
What both databases share: settling a claim, promoting due rows, looking at the backlog.

Every statement has its home here or in the file of its database, and all are built on the one
definition of the tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.runtime.engine import DEFERRED, translated
from outbox.tables import database_now, dead_letters, now_plus, outbox
from relay.storage.base import COUNTED_ROWS, Backlog, Row
from relay.verdict import Delete, GiveUp, Leave, Retry, Verdict

PROMOTE_LIMIT = 1_000
SOURCE = "relay"

READY = outbox.c.not_before.is_(None)
UNKEYED = outbox.c.ordering_key.is_(None)

_earlier = outbox.alias("earlier")

# The first row of each key, if it is ready. A key whose first row waits is not here, so its later
# rows do not overtake. Served by outbox_ready_keyed, with a probe of outbox_ordering_key each.
READY_HEADS = (
    sa.select(outbox.c.id, outbox.c.ordering_key)
    .where(READY, outbox.c.ordering_key.is_not(None))
    .where(
        ~sa.exists(
            sa.select(1).where(
                _earlier.c.ordering_key == outbox.c.ordering_key, _earlier.c.id < outbox.c.id
            )
        )
    )
    .order_by(outbox.c.id)
    .limit(sa.bindparam("heads"))
)

# Served by outbox_ready: rows that wait and rows with a key are not in that index.
READY_UNKEYED = (
    sa.select(outbox).where(READY, UNKEYED).order_by(outbox.c.id).limit(sa.bindparam("rows"))
)

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


class SqlStore(ABC):
    """The outbox in a SQL database; subclasses say how a claim is held."""

    ready_heads = READY_HEADS
    ready_unkeyed = READY_UNKEYED
    rows_of_keys: sa.Select[Any]

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def promote(self) -> int:
        due = self._due()
        with translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                # Mostly nothing is due, and a look takes no lock.
                if (await connection.execute(due.limit(1))).first() is None:
                    return 0
            async with self._engine.begin() as connection:
                result = await connection.execute(
                    sa.update(outbox)
                    .where(outbox.c.id.in_(self._due_to_promote()))
                    .values(not_before=None)
                )
                return result.rowcount

    async def backlog(self) -> Backlog:
        counted = sa.select(sa.literal(1)).select_from(outbox).limit(COUNTED_ROWS).subquery()
        oldest = sa.select(outbox.c.created_at).where(READY).order_by(outbox.c.id).limit(1)
        with translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                rows = await connection.scalar(sa.select(sa.func.count()).select_from(counted))
                now = await connection.scalar(sa.select(database_now()))
                first = await connection.scalar(oldest)
                age = now - first if now is not None and first is not None else timedelta(0)
                dead, snapshot = await self._debris(connection)
        return Backlog(rows or 0, max(age, timedelta(0)), dead, snapshot)

    async def select(self, connection: AsyncConnection, limit: int) -> list[Row]:
        """The rows of a claim, in order of insertion."""
        # At most half of a batch has keys, so that neither kind starves the other.
        rows = await self._keyed(connection, max(limit // 2, 1))
        if rest := limit - len(rows):
            unkeyed = await connection.execute(self.ready_unkeyed, {"rows": rest})
            rows += [_to_row(values) for values in unkeyed.mappings()]
        return sorted(rows, key=lambda row: row.id)

    async def _keyed(self, connection: AsyncConnection, limit: int) -> list[Row]:
        found = await connection.execute(self.ready_heads, {"heads": limit})
        heads = {key: row_id for row_id, key in found}
        if not heads:
            return []
        rows = await connection.execute(
            self.rows_of_keys, {"keys": self._keys(list(heads)), "rows": limit // len(heads)}
        )
        return ready_prefixes([_to_row(values) for values in rows.mappings()], heads)

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
    def _keys(self, keys: Sequence[str]) -> Any:
        """*keys* as the parameter of `rows_of_keys`."""

    def _among(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        return outbox.c.id.in_(ids)

    async def _debris(self, connection: AsyncConnection) -> tuple[int | None, timedelta | None]:
        del connection
        return None, None


def changes_something(verdicts: Iterable[Verdict]) -> bool:
    """Whether there is anything to write."""
    return not all(isinstance(verdict, Leave) for verdict in verdicts)


def _to_row(values: Any) -> Row:
    """A claimed row out of a database row."""
    return Row(
        id=values["id"],
        ordering_key=values["ordering_key"],
        attempts=values["attempts"],
        created_at=values["created_at"],
        values=dict(values),
    )


def ready_prefixes(rows: Sequence[Row], heads: dict[str, int]) -> list[Row]:
    """
    Of *rows*, sorted by key and id, those that may be published now.

    That is, for each key, the rows from its claimed head up to the first that waits. A key that
    no longer begins with the claimed row is left out.
    """
    result: list[Row] = []
    key: str | None = None
    going = False
    for row in rows:
        if row.ordering_key != key:
            key = row.ordering_key
            going = key is not None and heads.get(key) == row.id
        going = going and row.values["not_before"] is None
        if going:
            result.append(row)
    return result


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
