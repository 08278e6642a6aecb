"""
Both databases: promoting due rows, reading the backlog, rows that cannot be settled.

Every statement is here, in the files of claims, `measurement.py`, `settlement.py`, or in the file
of its database, and all of them use the one definition of the tables.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import with_deadline
from outbox.database_time import database_now
from outbox.event import Priority
from outbox.tables import outbox
from relay.event_group import EventState, oldest_age
from relay.measured_rows import groups
from relay.row import Row
from relay.storage.base import MEASURED_ROWS, Backlog
from relay.storage.claim import Claimer
from relay.storage.claimed_rows import ClaimedRows
from relay.storage.isolation import Scope, is_about_rows, refused
from relay.storage.keyed_scan import KeyedScan, KeyHeads
from relay.storage.measurement import measured, measuring
from relay.storage.settlement import Settlement
from relay.storage.unkeyed_scan import UnkeyedScan
from relay.verdict import Leave, Verdict

PROMOTE_LIMIT = 1_000
STUCK_SECONDS = 3600.0
"""How long a row is left alone that the database refuses to change in any way."""

# A condition on the time would have Postgres read all rows that wait.
_FIRST_DUE = (
    sa.select(outbox.c.not_before, database_now().label("now"))
    .where(outbox.c.not_before.is_not(None))
    .order_by(outbox.c.not_before)
    .limit(1)
)


class SqlStore(ABC):
    """
    The outbox in a SQL database; a subclass holds the claim.

    Args:
        timeout: How long the database may take to answer; the server's own limits are shorter.
        clock: Seconds of any origin that never go back.

    """

    claim_unkeyed: ClassVar[Mapping[Priority, sa.Select[Any]]]
    claim_keyed: ClassVar[sa.Select[Any]]
    settlement: ClassVar[Settlement]
    read_only: ClassVar[Mapping[str, Any]]
    """Execution options for statements that need no transaction and no lock."""
    locked: ClassVar[sa.ColumnElement[bool]] = sa.false()
    """Whether an open transaction holds a row of the outbox."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        timeout: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._timeout = timeout
        self._clock = clock
        self._stuck: dict[int, float] = {}
        self.claimer = Claimer(
            UnkeyedScan(self.claim_unkeyed, clock=clock),
            KeyedScan(self.claim_keyed, head_parameters=self._head_parameters, clock=clock),
            clock=clock,
        )

    async def due_in(self) -> timedelta | None:
        first = _FIRST_DUE
        if stuck := self._stuck and self._stuck_now():
            first = first.where(outbox.c.id.not_in(stuck))
        async with with_deadline(self._timeout), self._engine.connect() as connection:
            await connection.execution_options(**self.read_only)
            row = (await connection.execute(first)).first()
        return None if row is None else max(row.not_before - row.now, timedelta(0))

    async def promote(self) -> int:
        async with with_deadline(self._timeout):
            try:
                async with self._engine.begin() as connection:
                    due_now = outbox.c.id.in_(self._due_to_promote())
                    promoted = (await connection.execute(_promotion(due_now))).rowcount
            except DBAPIError as error:
                if not is_about_rows(error):
                    raise
                promoted = await self._promote_apart()
        self.claimer.released()
        return promoted

    async def backlog(self, *, limit: int = MEASURED_ROWS, by_route: bool = False) -> Backlog:
        statement = measuring(locked=self.locked, by_route=by_route)
        async with with_deadline(self._timeout), self._measuring() as connection:
            found = measured((await connection.execute(statement, {"rows": limit})).all())
            events = groups(found, limit=limit)
            rows = sum(group.rows for group in events)
            if not all(group.exact for group in events):
                rows = max(rows, await self._count(connection))
            statistics = await self._vacuum_statistics(connection)
        ready_age = oldest_age(events, EventState.READY, EventState.IN_FLIGHT)
        return Backlog(rows, ready_age, *statistics, oldest_age=oldest_age(events), events=events)

    async def settle_apart(self, scope: Scope, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """
        Apply *verdicts*, without those that the database refuses.

        Returns the verdicts that apply now; see `Settlement.apply_apart`.
        """
        applied, stuck = await self.settlement.apply_apart(scope, verdicts)
        self._leave_alone(verdict.row.id for verdict in stuck)
        return [*applied, *stuck, *(v for v in verdicts if isinstance(v, Leave))]

    def without_stuck(self, claimed: ClaimedRows) -> ClaimedRows:
        """*claimed* without rows that have been published but could not be settled."""
        if not self._stuck:
            return claimed
        stuck = self._stuck_now()
        kept = [row for row in claimed.rows if row.id not in stuck]
        return replace(
            claimed, rows=kept, released=claimed.released or len(kept) < len(claimed.rows)
        )

    def _leave_alone(self, ids: Iterable[int]) -> None:
        until = self._clock() + STUCK_SECONDS
        self._stuck.update(dict.fromkeys(ids, until))

    def _stuck_now(self) -> Collection[int]:
        now = self._clock()
        self._stuck = {id_: until for id_, until in self._stuck.items() if until > now}
        return self._stuck.keys()

    async def _promote_apart(self) -> int:
        """Promote due rows; those that the database refuses to change are left alone."""
        async with self._apart() as scope:
            async with scope() as connection:
                ids: list[Any] = list(await connection.scalars(self._due_to_promote()))

            async def promote(connection: AsyncConnection, ids: Sequence[int]) -> None:
                await connection.execute(_promotion(self.settlement.has_id(ids)))

            stuck = await refused(scope, ids, promote)
        self._leave_alone(stuck)
        return len(ids) - len(stuck)

    def _due(self) -> sa.Select[tuple[int]]:
        due = (
            sa.select(outbox.c.id)
            .where(outbox.c.not_before.is_not(None), outbox.c.not_before <= database_now())
            .order_by(outbox.c.not_before)
        )
        return due.where(outbox.c.id.not_in(self._stuck_now())) if self._stuck else due

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return self._due().limit(PROMOTE_LIMIT)

    @abstractmethod
    def _apart(self) -> AbstractAsyncContextManager[Scope]:
        """A scope whose changes are committed at the end of the block at the latest."""

    @abstractmethod
    def _head_parameters(self, heads: KeyHeads) -> dict[str, Any]:
        """*heads* as parameters of `claim_keyed`."""

    @asynccontextmanager
    async def _measuring(self) -> AsyncIterator[AsyncConnection]:
        """A connection for the statements that measure the backlog."""
        async with self._engine.connect() as connection:
            await connection.execution_options(**self.read_only)
            yield connection

    async def _count(self, connection: AsyncConnection) -> int:
        """The number of rows in the outbox, which are many; it may be an estimate."""
        return await connection.scalar(sa.select(sa.func.count()).select_from(outbox)) or 0

    async def _vacuum_statistics(
        self, connection: AsyncConnection
    ) -> tuple[int | None, timedelta | None, int | None]:
        """
        Dead tuples, and the age of the oldest open transaction, in time and in transactions.

        None where they do not exist.
        """
        del connection
        return None, None, None


def has_changes(verdicts: Iterable[Verdict]) -> bool:
    """Whether *verdicts* change any row."""
    return not all(isinstance(verdict, Leave) for verdict in verdicts)


def leaves_rows_ready(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> bool:
    """Whether some of the claimed *rows* are ready again after *verdicts*."""
    return len(verdicts) < len(rows) or any(isinstance(verdict, Leave) for verdict in verdicts)


def _promotion(rows: sa.ColumnElement[bool]) -> sa.Update:
    return sa.update(outbox).where(rows).values(not_before=None)
