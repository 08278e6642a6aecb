"""
The outbox in Postgres: any number of relays, and a claim that lasts as long as its transaction.

The row locks are held while the batch is published, and publishing has a deadline. A relay that
dies, at whatever point, only lets go of its locks: the rows are published again by another.

Rows without a key are locked one by one. Of a key only the first row is locked, and it stands for
the key: while it is locked no other relay finds a first row to lock, and when it is gone the
next statement of the other relay has a snapshot in which another row is first. This is what an
advisory lock on the key would do, without collisions of hashes, and it works through poolers.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.runtime.engine import commit, translated
from outbox.tables import outbox
from relay.storage.base import Claim
from relay.storage.sql import READY_HEADS, READY_UNKEYED, SqlStore, changes_something
from relay.verdict import Verdict

_MARGIN = timedelta(seconds=5)

# One index range per claimed key, however many rows the key has. It must be a statement of its
# own: only a snapshot taken after the heads are locked shows what the previous holder left.
_keys = (
    sa.func.unnest(sa.bindparam("keys", type_=ARRAY(sa.Text))).table_valued("key").render_derived()
)
_of_key = (
    sa.select(outbox)
    .where(outbox.c.ordering_key == _keys.c.key)
    .order_by(outbox.c.id)
    .limit(sa.bindparam("rows"))
    .lateral("of_key")
)
_ROWS_OF_KEYS = (
    sa.select(_of_key)
    .select_from(_keys.join(_of_key, sa.true()))
    .order_by(_of_key.c.ordering_key, _of_key.c.id)
)

_DEADLINES = sa.select(
    sa.func.set_config("statement_timeout", sa.bindparam("limit"), sa.true()),
    sa.func.set_config("lock_timeout", sa.bindparam("lock"), sa.true()),
    sa.func.set_config("idle_in_transaction_session_timeout", sa.bindparam("idle"), sa.true()),
)

_DEBRIS = sa.text(
    "SELECT (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass),"
    " (SELECT max(clock_timestamp() - xact_start) FROM pg_stat_activity"
    "  WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid())"
)


class PostgresStore(SqlStore):
    """
    The outbox in Postgres.

    *publish_timeout* is how long the relay takes at most between claim and settlement; the
    server ends the transaction of a relay that takes longer, or that it has lost sight of.
    """

    # SKIP LOCKED: what another relay holds is not waited for. The index has the order of the
    # claim, so nothing is sorted before it is locked, and LIMIT ends the scan.
    ready_heads = READY_HEADS.with_for_update(skip_locked=True, of=outbox)
    ready_unkeyed = READY_UNKEYED.with_for_update(skip_locked=True)
    rows_of_keys = _ROWS_OF_KEYS

    def __init__(self, engine: AsyncEngine, *, publish_timeout: timedelta) -> None:
        super().__init__(engine)
        self._deadlines = {
            "limit": _milliseconds(publish_timeout),
            # Below the other, which would otherwise always be first and hide what was waited for.
            "lock": _milliseconds(publish_timeout / 2),
            "idle": _milliseconds(publish_timeout + _MARGIN),
        }

    @asynccontextmanager
    async def claim(self, *, limit: int) -> AsyncIterator[Claim]:
        with translated():
            connection = await self._engine.connect()
        try:
            with translated():
                await connection.execute(_DEADLINES, self._deadlines)
                rows = await self.select(connection, limit)

            async def settle(verdicts: Sequence[Verdict]) -> None:
                if not changes_something(verdicts):
                    return
                with translated():
                    await self.settle(connection, verdicts)
                    await commit(connection)

            yield Claim(rows, settle)
        finally:
            # Rolls back what was not committed; a session that is gone has done so already.
            with suppress(SQLAlchemyError, OSError):
                await connection.close()

    def _keys(self, keys: Sequence[str]) -> list[str]:
        return list(keys)

    def _due_to_promote(self) -> sa.Select[tuple[int]]:
        return super()._due_to_promote().with_for_update(skip_locked=True)

    def _among(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        # One parameter for any number of rows: the statement is prepared once.
        return outbox.c.id == sa.any_(sa.bindparam(None, ids, type_=ARRAY(sa.BigInteger)))

    async def _debris(self, connection: AsyncConnection) -> tuple[int | None, timedelta | None]:
        dead, age = (await connection.execute(_DEBRIS)).one()
        return dead, age if age is not None else timedelta(0)


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
