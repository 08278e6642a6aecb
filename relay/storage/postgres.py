"""
The outbox in Postgres: any number of relays, and a claim that lasts as long as its transaction.

The relay holds the row locks while it publishes the batch, and publishing has a deadline. A relay
that dies, at any point, only releases its locks: another relay publishes the rows again.

A claim locks every row that it takes and skips rows that are locked. It numbers the rows of a key
before it locks them: if a row of the key is skipped, because any other claim holds it, the numbers
have a gap, and the claim takes no row behind the gap. An advisory lock on the key would have the
same effect, but hashes of keys may collide; this way works through poolers too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import driver_errors_translated, with_deadline
from relay.storage.base import Claim
from relay.storage.isolation import RowsUnchangedError, Scope, is_about_rows, savepoints
from relay.storage.kept_sessions import KeptSessions
from relay.storage.keyed_claim_statements import POSTGRES_CLAIM_KEYED
from relay.storage.keyed_scan import KeyHeads
from relay.storage.measurement import POSTGRES_LOCKED
from relay.storage.postgres_session import PostgresSession
from relay.storage.postgres_settlement import DELETION, PostgresSettlement
from relay.storage.postgres_unkeyed_claim import POSTGRES_CLAIM_UNKEYED
from relay.storage.session_keeper import kept_alive
from relay.storage.sql_store import SqlStore, has_changes, leaves_rows_ready
from relay.verdict import Delete, Verdict

_MARGIN = timedelta(seconds=5)
"""The server's own timeouts are shorter by this: past them the server does not answer at all."""

# The plans of a claim are known, and must not depend on statistics that are older than the rows.
_PLANNER = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # An index has the order: sorts look cheap as long as statistics know of few rows. Those that
    # remain look expensive, which is no reason to compile the statement.
    "enable_sort": "off",
    "jit": "off",
}

_MEASURED_BY_INDEX = sa.text(
    "SELECT set_config('enable_seqscan', 'off', true),"
    " set_config('enable_bitmapscan', 'off', true)"
)
"""Else Postgres may read and sort all rows to get the first ones; until the transaction ends."""

# A transaction that has only written has no snapshot while it is idle, and a prepared one has no
# session. A role without pg_read_all_stats sees the transactions of other roles, but not when they
# began. A replication slot does not say since when it keeps rows. An idle session has a
# transaction only while it is notified, which seems to have begun with its last statement
# (PostgreSQL 15, findings/postgresql-idle-listener-transaction.sh).
_VACUUM_STATISTICS = sa.text("""
WITH kept (since, transactions) AS (
    SELECT xact_start, greatest(age(backend_xmin), age(backend_xid))
    FROM pg_stat_activity
    WHERE coalesce(backend_xmin, backend_xid) IS NOT NULL AND pid <> pg_backend_pid()
        AND state IS DISTINCT FROM 'idle'
    UNION ALL
    SELECT prepared, age(transaction) FROM pg_prepared_xacts
    UNION ALL
    SELECT NULL, age(xmin) FROM pg_replication_slots WHERE xmin IS NOT NULL
)
SELECT (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass),
    max(clock_timestamp() - since), max(transactions)
FROM kept
""")
_SEES_ALL_SESSIONS = sa.text("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")
# A deferred constraint has to raise where it can be told which row it is about.
_CONSTRAINTS_AT_ONCE = sa.text("SET CONSTRAINTS ALL IMMEDIATE")
_ESTIMATE = sa.text("SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass")


class PostgresStore(SqlStore):
    """
    The outbox in Postgres.

    Args:
        publish_timeout: The server ends the transaction of a relay that is lost unnoticed this
            long and a little. A relay that publishes for longer keeps its transaction alive.
        pooled: Whether each transaction may run in another session of the server.
        clock: Seconds of any origin that never go back.

    """

    claim_unkeyed = POSTGRES_CLAIM_UNKEYED
    claim_keyed = POSTGRES_CLAIM_KEYED
    settlement = PostgresSettlement()
    locked = POSTGRES_LOCKED
    # One round trip instead of three, several times a second.
    read_only: ClassVar = {"isolation_level": "AUTOCOMMIT"}

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        publish_timeout: timedelta,
        pooled: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(engine, timeout=publish_timeout + _MARGIN, clock=clock)
        self._publish_timeout = publish_timeout
        limits = {
            "statement_timeout": _milliseconds(publish_timeout),
            # Shorter than statement_timeout, which would otherwise always end the wait first and
            # hide that the statement waited for a lock.
            "lock_timeout": _milliseconds(publish_timeout / 2),
            "idle_in_transaction_session_timeout": _milliseconds(publish_timeout + _MARGIN),
        }
        self._sessions = KeptSessions(
            engine, settings={**limits, **_PLANNER}, pooled=pooled, timeout=self._timeout
        )

    @asynccontextmanager
    async def claim(self, *, limit: int, size: int) -> AsyncIterator[Claim]:
        # Locked rows are ready again at the end, unless a settlement has removed them all.
        released = True
        session = await self._sessions.take()
        try:
            async with with_deadline(self._timeout):
                await session.begin()
                claimed = self.without_stuck(
                    await self.claimer.select(session.read, limit=limit, size=size)
                )

            async def settle(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
                nonlocal released
                await keeper.stop()
                applied = verdicts
                if has_changes(verdicts):
                    with driver_errors_translated():
                        try:
                            async with asyncio.timeout(self._timeout.total_seconds()):
                                await self._apply(session, verdicts)
                            await session.commit()
                        except (DBAPIError, RowsUnchangedError) as error:
                            if not is_about_rows(error):
                                raise
                            applied = await self._settle_apart(session, verdicts)
                    released = claimed.released or leaves_rows_ready(claimed.rows, applied)
                return applied

            async with kept_alive(session.connection, every=self._publish_timeout / 2) as keeper:
                yield Claim(claimed.rows, claimed.more, settle)
            released = released and (claimed.released or bool(claimed.rows))
        finally:
            if released:
                self.claimer.released()
            await self._sessions.give_back(session)

    async def close(self) -> None:
        await self._sessions.close()

    async def _apply(self, session: PostgresSession, verdicts: Sequence[Verdict]) -> None:
        """Apply all *verdicts*: nearly always every event is confirmed, and its row goes."""
        ids = [verdict.row.id for verdict in verdicts if isinstance(verdict, Delete)]
        if len(ids) < len(verdicts):
            await self.settlement.apply(session.connection, verdicts)
        elif await session.change(DELETION, {"ids": ids}) < len(ids):
            raise RowsUnchangedError

    async def _settle_apart(
        self, session: PostgresSession, verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        """The locks are lost with the transaction: a row that another relay takes is left out."""
        async with with_deadline(self._timeout):
            await session.rollback()
            await session.begin()
            await session.connection.execute(_CONSTRAINTS_AT_ONCE)
            applied = await self.settle_apart(savepoints(session.connection), verdicts)
        with driver_errors_translated():
            await session.commit()
        return applied

    @asynccontextmanager
    async def _apart(self) -> AsyncIterator[Scope]:
        async with self._engine.begin() as connection:
            await connection.execute(_CONSTRAINTS_AT_ONCE)
            yield savepoints(connection)

    def _head_parameters(self, heads: KeyHeads) -> dict[str, Any]:
        return {
            "keys": list(heads.ids),
            "heads": list(heads.ids.values()),
            "urgent": [key in heads.urgent for key in heads.ids],
        }

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return super()._due_to_promote().with_for_update(skip_locked=True)

    @asynccontextmanager
    async def _measuring(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            await connection.execute(_MEASURED_BY_INDEX)
            yield connection

    async def _count(self, connection: AsyncConnection) -> int:
        """Postgres's estimate: a count would read the whole table."""
        return await connection.scalar(_ESTIMATE) or 0

    async def _vacuum_statistics(
        self, connection: AsyncConnection
    ) -> tuple[int | None, timedelta | None, int | None]:
        dead, age, transactions = (await connection.execute(_VACUUM_STATISTICS)).one()
        return dead, age if age is not None else timedelta(0), transactions or 0


async def sees_all_sessions(engine: AsyncEngine) -> bool:
    """
    Return whether the role of *engine* sees since when transactions of other roles are open.

    Raises DatabaseUnavailable.
    """
    with driver_errors_translated():
        async with engine.connect() as connection:
            return bool(await connection.scalar(_SEES_ALL_SESSIONS))


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
