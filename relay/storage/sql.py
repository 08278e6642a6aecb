"""
What both databases share: settling a claim, promoting due rows, looking at the backlog.

Every statement has its home here, in `ready.py`, or in the file of its database, and all are built
on the one definition of the tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import with_deadline
from outbox.tables import database_now, dead_letters, now_plus, outbox
from relay.row import Row
from relay.storage.base import Backlog
from relay.storage.claim import Claimer
from relay.storage.claim_statements import READY, UNKEYED_CANDIDATES, measured, with_news_of_keys
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

ENVELOPE_COLUMNS = (
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
        self.claimer = Claimer(
            unkeyed=self.unkeyed, of_keys=self.of_keys, parameters=self._parameters
        )

    async def promote(self) -> int:
        due = self._due()
        async with with_deadline(self._patience):
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
        self.claimer.released()
        return result.rowcount

    async def backlog(self) -> Backlog:
        oldest = sa.select(outbox.c.created_at).where(READY).order_by(outbox.c.id).limit(1)
        async with with_deadline(self._patience), self._engine.connect() as connection:
            await connection.execution_options(**self.only_reading)
            rows = await self._count(connection)
            now = await connection.scalar(sa.select(database_now()))
            first = await connection.scalar(oldest)
            age = now - first if now is not None and first is not None else timedelta(0)
            dead, snapshot = await self._debris(connection)
        return Backlog(rows, max(age, timedelta(0)), dead, snapshot)

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


def lets_go(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> bool:
    """Whether some of the claimed *rows* are ready again after *verdicts*."""
    return len(verdicts) < len(rows) or any(isinstance(verdict, Leave) for verdict in verdicts)


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
        **{name: values[name] for name in ENVELOPE_COLUMNS},
    }
