"""
Both databases: settling a claim, promoting due rows, reading the backlog.

Every statement is here, in `claim_statements.py`, or in the file of its database, and all of them
use the one definition of the tables.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import with_deadline
from outbox.tables import database_now, dead_letters, now_plus, outbox
from relay.row import Row
from relay.storage.base import Backlog
from relay.storage.claim import Claimer
from relay.storage.claim_statements import READY
from relay.storage.keyed_scan import KeyedScan
from relay.storage.unkeyed_scan import UnkeyedScan
from relay.verdict import DeadLetter, Delete, Leave, Retry, Verdict

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
    The outbox in a SQL database; a subclass holds the claim.

    Args:
        timeout: How long the database may take to answer; the server's own limits are shorter.
        clock: Seconds of any origin that never go back.

    """

    claim_unkeyed: ClassVar[sa.Select[Any]]
    claim_keyed: ClassVar[sa.Select[Any]]
    read_only: ClassVar[Mapping[str, Any]]
    """Execution options for statements that need no transaction and no lock."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        timeout: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._timeout = timeout
        self.claimer = Claimer(
            UnkeyedScan(self.claim_unkeyed, clock=clock),
            KeyedScan(self.claim_keyed, head_parameters=self._head_parameters, clock=clock),
            clock=clock,
        )

    async def promote(self) -> int:
        due = self._due()
        async with with_deadline(self._timeout):
            async with self._engine.connect() as connection:
                await connection.execution_options(**self.read_only)
                # Usually no row is due, and this check takes no lock.
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
        async with with_deadline(self._timeout), self._engine.connect() as connection:
            await connection.execution_options(**self.read_only)
            rows = await self._count(connection)
            now = await connection.scalar(sa.select(database_now()))
            first = await connection.scalar(oldest)
            age = now - first if now is not None and first is not None else timedelta(0)
            dead, snapshot = await self._vacuum_statistics(connection)
        return Backlog(rows, max(age, timedelta(0)), dead, snapshot)

    async def settle(self, connection: AsyncConnection, verdicts: Sequence[Verdict]) -> None:
        """Apply *verdicts* in the open transaction of *connection*."""
        deleted = [v.row.id for v in verdicts if isinstance(v, Delete | DeadLetter)]
        dead = [_dead_letter(v) for v in verdicts if isinstance(v, DeadLetter)]
        retried = [_retry(v) for v in verdicts if isinstance(v, Retry)]
        if dead:
            await connection.execute(sa.insert(dead_letters), dead)
        if deleted:
            await connection.execute(sa.delete(outbox).where(self._has_id(deleted)))
        if retried:
            await connection.execute(_RETRY, retried)

    def _due(self) -> sa.Select[tuple[int]]:
        return (
            sa.select(outbox.c.id)
            .where(outbox.c.not_before.is_not(None), outbox.c.not_before <= database_now())
            .order_by(outbox.c.not_before)
        )

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return self._due().limit(PROMOTE_LIMIT)

    @abstractmethod
    def _head_parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        """*heads*, ids of first rows by key, as parameters of `claim_keyed`."""

    async def _count(self, connection: AsyncConnection) -> int:
        """The number of rows in the outbox."""
        return await connection.scalar(sa.select(sa.func.count()).select_from(outbox)) or 0

    def _has_id(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        return outbox.c.id.in_(ids)

    async def _vacuum_statistics(
        self, connection: AsyncConnection
    ) -> tuple[int | None, timedelta | None]:
        """Dead tuples, and the age of the oldest snapshot; None where they do not exist."""
        del connection
        return None, None


def has_changes(verdicts: Iterable[Verdict]) -> bool:
    """Whether *verdicts* change any row."""
    return not all(isinstance(verdict, Leave) for verdict in verdicts)


def leaves_rows_ready(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> bool:
    """Whether some of the claimed *rows* are ready again after *verdicts*."""
    return len(verdicts) < len(rows) or any(isinstance(verdict, Leave) for verdict in verdicts)


def _retry(verdict: Retry) -> dict[str, Any]:
    return {
        "row": verdict.row.id,
        "code": verdict.code,
        "seconds": verdict.delay.total_seconds(),
    }


def _dead_letter(verdict: DeadLetter) -> dict[str, Any]:
    values = verdict.row.values
    return {
        "source": SOURCE,
        "reason": verdict.code,
        "attempts": verdict.row.attempts + 1,
        "message_id": str(values["event_id"]),
        "first_at": verdict.row.created_at,
        **{name: values[name] for name in ENVELOPE_COLUMNS},
    }
