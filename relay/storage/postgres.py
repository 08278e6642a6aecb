"""
The outbox in Postgres: any number of relays, and a claim that lasts as long as its transaction.

The relay holds the row locks while it publishes the batch, and publishing has a deadline. A relay
that dies, at any point, only releases its locks: another relay publishes the rows again.

A claim locks every row that it takes and skips rows that are locked. It numbers the rows of a key
before it locks them: if a row of the key is skipped, because any other claim holds it, the numbers
have a gap, and the claim takes no row behind the gap. An advisory lock on the key would have the
same effect, but hashes of keys may collide; this way works through poolers too.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import driver_errors_translated, with_deadline
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import commit
from outbox.tables import outbox
from relay.storage.base import Claim
from relay.storage.claim_statements import POSTGRES_CLAIM_KEYED, POSTGRES_CLAIM_UNKEYED
from relay.storage.sql_store import SqlStore, has_changes, leaves_rows_ready
from relay.verdict import Verdict

_MARGIN = timedelta(seconds=5)
"""The server's own timeouts are shorter by this: past them the server does not answer at all."""

COUNTED_ROWS = 10_000
"""A longer count would read the whole table; above it the server's estimate is good enough."""

# The plans of a claim are known, and must not depend on statistics that are older than the rows.
_PLANNER = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

_PREPARED = "outbox-relay is prepared"

_VACUUM_STATISTICS = sa.text(
    "SELECT (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass),"
    " (SELECT max(clock_timestamp() - xact_start) FROM pg_stat_activity"
    "  WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid())"
)
_ESTIMATE = sa.text("SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass")


class PostgresStore(SqlStore):
    """
    The outbox in Postgres.

    Args:
        publish_timeout: The longest time between claim and settlement. The server ends the
            transaction of a relay that takes longer, or whose connection is lost unnoticed.
        pooled: Whether each transaction may run in another session of the server.
        clock: Seconds of any origin that never go back.

    """

    claim_unkeyed = POSTGRES_CLAIM_UNKEYED
    claim_keyed = POSTGRES_CLAIM_KEYED
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
        self._pooled = pooled
        limits = {
            "statement_timeout": _milliseconds(publish_timeout),
            # Shorter than statement_timeout, which would otherwise always end the wait first and
            # hide that the statement waited for a lock.
            "lock_timeout": _milliseconds(publish_timeout / 2),
            "idle_in_transaction_session_timeout": _milliseconds(publish_timeout + _MARGIN),
        }
        self._settings = sa.select(
            *(
                sa.func.set_config(name, value, sa.true() if pooled else sa.false())
                for name, value in {**limits, **_PLANNER}.items()
            )
        )

    @asynccontextmanager
    async def claim(self, *, limit: int, size: int) -> AsyncIterator[Claim]:
        # Locked rows are ready again at the end, unless a settlement has removed them all.
        released = True
        async with with_deadline(self._timeout):
            connection = await self._engine.connect()
        try:
            async with with_deadline(self._timeout):
                await self._prepare(connection)
                claimed = await self.claimer.select(connection, limit=limit, size=size)

            async def settle(verdicts: Sequence[Verdict]) -> None:
                nonlocal released
                if has_changes(verdicts):
                    async with with_deadline(self._timeout):
                        await self.settle(connection, verdicts)
                    with driver_errors_translated():
                        await commit(connection)
                    released = claimed.released or leaves_rows_ready(claimed.rows, verdicts)

            yield Claim(claimed.rows, claimed.more, settle)
            released = released and (claimed.released or bool(claimed.rows))
        finally:
            if released:
                self.claimer.released()
            await self._release(connection)

    async def _release(self, connection: AsyncConnection) -> None:
        """Roll back changes that were not committed; a lost session has rolled back already."""
        try:
            async with with_deadline(self._timeout):
                await connection.close()
        except (DatabaseUnavailable, SQLAlchemyError, OSError):
            with suppress(SQLAlchemyError, OSError):
                await connection.invalidate()

    async def _prepare(self, connection: AsyncConnection) -> None:
        """Set the session up for claims: once, or for each claim if sessions change."""
        if self._pooled:
            await connection.execute(self._settings)
        elif _PREPARED not in connection.info:
            await connection.execute(self._settings)
            await connection.commit()
            connection.info[_PREPARED] = True

    def _head_parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        return {"keys": list(heads), "heads": list(heads.values())}

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return super()._due_to_promote().with_for_update(skip_locked=True)

    def _has_id(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        # One parameter for any number of rows: the statement is prepared once.
        return outbox.c.id == sa.any_(sa.bindparam(None, ids, type_=ARRAY(sa.BigInteger)))

    async def _count(self, connection: AsyncConnection) -> int:
        some = sa.select(sa.literal(1)).select_from(outbox).limit(COUNTED_ROWS).subquery()
        exact = await connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
        if exact < COUNTED_ROWS:
            return exact
        return max(await connection.scalar(_ESTIMATE) or 0, exact)

    async def _vacuum_statistics(
        self, connection: AsyncConnection
    ) -> tuple[int | None, timedelta | None]:
        dead, age = (await connection.execute(_VACUUM_STATISTICS)).one()
        return dead, age if age is not None else timedelta(0)


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
