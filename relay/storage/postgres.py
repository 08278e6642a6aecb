"""
The outbox in Postgres: any number of relays, and a claim that lasts as long as its transaction.

The row locks are held while the batch is published, and publishing has a deadline. A relay that
dies, at whatever point, only lets go of its locks: the rows are published again by another.

Every row is locked, and a locked row is passed over. Of a key the rows are numbered before they
are locked: if one is passed over, by whatever claim it is held, the numbers have a gap, and
nothing behind the gap is taken. This is what an advisory lock on the key would do, without
collisions of hashes, and it works through poolers.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
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
from relay.storage.claim_statements import (
    SIZE,
    UNKEYED_CANDIDATES,
    measured,
    position_in_key,
    with_news_of_keys,
)
from relay.storage.sql import SqlStore, changes_something, lets_go
from relay.verdict import Verdict

_MARGIN = timedelta(seconds=5)
"""The server's own timeouts come first; what is beyond them is silence."""

COUNTED_ROWS = 10_000
"""To count more would read the whole table; beyond, the server's estimate is good enough."""

# One index range per key, however many rows the key has or had.
_head = (
    sa.func.unnest(
        sa.bindparam("keys", type_=ARRAY(sa.Text)),
        sa.bindparam("heads", type_=ARRAY(sa.BigInteger)),
    )
    .table_valued("key", "id")
    .render_derived()
)
_of_key = (
    sa.select(outbox.c.id, SIZE, outbox.c.ordering_key)
    .where(outbox.c.ordering_key == _head.c.key, outbox.c.id >= _head.c.id)
    .order_by(outbox.c.id)
    .limit(sa.bindparam("rows"))
    .lateral("of_key")
)
_KEYED_CANDIDATES = sa.select(_of_key.c.id, _of_key.c.size, position_in_key(_of_key)).select_from(
    _head.join(_of_key, sa.true())
)

# The plans of a claim are known, and must not depend on statistics that are older than the rows.
_PLANNER = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

_PREPARED = "outbox-relay is prepared"

_DEBRIS = sa.text(
    "SELECT (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass),"
    " (SELECT max(clock_timestamp() - xact_start) FROM pg_stat_activity"
    "  WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid())"
)
_ESTIMATE = sa.text("SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass")


class PostgresStore(SqlStore):
    """
    The outbox in Postgres.

    Args:
        publish_timeout: How long the relay takes at most between claim and settlement; the server
            ends the transaction of a relay that takes longer, or that it has lost sight of.
        pooled: Whether each transaction may have another session of the server.

    """

    # SKIP LOCKED: what another claim holds is not waited for. The index has the order of the
    # claim, so nothing is sorted before it is locked, and LIMIT ends the scan.
    unkeyed = with_news_of_keys(measured(UNKEYED_CANDIDATES.with_for_update(skip_locked=True)))
    of_keys = measured(_KEYED_CANDIDATES).with_for_update(skip_locked=True, of=outbox)
    # One round trip instead of three, several times a second.
    only_reading: ClassVar = {"isolation_level": "AUTOCOMMIT"}

    def __init__(
        self, engine: AsyncEngine, *, publish_timeout: timedelta, pooled: bool = False
    ) -> None:
        super().__init__(engine, patience=publish_timeout + _MARGIN)
        self._pooled = pooled
        limits = {
            "statement_timeout": _milliseconds(publish_timeout),
            # Below the other, which would otherwise always be first and hide what was waited for.
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
        released = True
        async with with_deadline(self._patience):
            connection = await self._engine.connect()
        try:
            async with with_deadline(self._patience):
                await self._prepare(connection)
                found = await self.claimer.select(connection, limit=limit, size=size)

            async def settle(verdicts: Sequence[Verdict]) -> None:
                nonlocal released
                if changes_something(verdicts):
                    async with with_deadline(self._patience):
                        await self.settle(connection, verdicts)
                    with driver_errors_translated():
                        await commit(connection)
                    released = found.released or lets_go(found.rows, verdicts)

            yield Claim(found.rows, found.more, settle)
            released = released and (found.released or bool(found.rows))
        finally:
            if released:
                self.claimer.released()
            await self._let_go(connection)

    async def _let_go(self, connection: AsyncConnection) -> None:
        """Roll back what was not committed; a session that is gone has done so already."""
        try:
            async with with_deadline(self._patience):
                await connection.close()
        except (DatabaseUnavailable, SQLAlchemyError, OSError):
            with suppress(SQLAlchemyError, OSError):
                await connection.invalidate()

    async def _prepare(self, connection: AsyncConnection) -> None:
        """Set what claims need: once in a session, and each time if sessions change."""
        if self._pooled:
            await connection.execute(self._settings)
        elif _PREPARED not in connection.info:
            await connection.execute(self._settings)
            await connection.commit()
            connection.info[_PREPARED] = True

    def _parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        return {"keys": list(heads), "heads": list(heads.values())}

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return super()._due_to_promote().with_for_update(skip_locked=True)

    def _among(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        # One parameter for any number of rows: the statement is prepared once.
        return outbox.c.id == sa.any_(sa.bindparam(None, ids, type_=ARRAY(sa.BigInteger)))

    async def _count(self, connection: AsyncConnection) -> int:
        some = sa.select(sa.literal(1)).select_from(outbox).limit(COUNTED_ROWS).subquery()
        exact = await connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
        if exact < COUNTED_ROWS:
            return exact
        return max(await connection.scalar(_ESTIMATE) or 0, exact)

    async def _debris(self, connection: AsyncConnection) -> tuple[int | None, timedelta | None]:
        dead, age = (await connection.execute(_DEBRIS)).one()
        return dead, age if age is not None else timedelta(0)


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
