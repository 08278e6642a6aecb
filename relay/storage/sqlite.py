"""
The outbox in a SQLite file: one relay, and a claim that holds no lock.

SQLite has one writer. A claim that kept its transaction open while publishing would block every
producer, so the relay only reads the rows, publishes them, and then deletes them in a short
transaction. This is safe because a single relay works on the file: it holds a lock on a side file,
which the operating system releases however the relay ends. Other relays wait until then.

That transaction does not wait for the disk while it holds the lock of all writers. A loss of power
before the next commit of a producer or consumer undoes it: its rows are published again, as after
a crash between publish and delete.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import DEFERRED, NOT_DURABLE
from outbox.database.errors import driver_errors_translated
from outbox.database.sqlite_connection import BUSY_SECONDS
from outbox.database.sqlite_file_lock import FileLock
from outbox.runtime.shield import commit
from outbox.tables import outbox
from relay.storage.base import Claim
from relay.storage.claimed_rows import ClaimedRows, read_sqlite
from relay.storage.isolation import RowsUnchangedError, Scope, is_about_rows
from relay.storage.keyed_claim_statements import SQLITE_CLAIM_KEYED
from relay.storage.keyed_scan import KeyHeads
from relay.storage.settlement import Settlement
from relay.storage.sql_store import SqlStore, has_changes
from relay.storage.unkeyed_claim_statements import SQLITE_CLAIM_UNKEYED
from relay.verdict import Verdict

_UUID_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
"""The first digit and the number of digits of each part of a UUID."""


class SqliteSettlement(Settlement):
    """Settles the rows of a claim in SQLite."""

    def message_id(self) -> sa.ColumnElement[str]:
        digits = sa.type_coerce(outbox.c.event_id, sa.Text)
        first, *others = (
            sa.func.substr(digits, start, length, type_=sa.Text) for start, length in _UUID_PARTS
        )
        text: sa.ColumnElement[str] = first
        for part in others:
            text = text + "-" + part
        return text

    def size(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.length(sa.cast(column, sa.LargeBinary))


class SqliteStore(SqlStore):
    """
    The outbox in the SQLite file of *engine*.

    *on_standby* is called with true when claims begin to get no rows because another relay works
    on the file, and with false when this one takes over. *clock* returns seconds of any origin
    that never go back.
    """

    claim_unkeyed = SQLITE_CLAIM_UNKEYED
    claim_keyed = SQLITE_CLAIM_KEYED
    settlement = SqliteSettlement()
    read_only = DEFERRED

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        on_standby: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(engine, timeout=timedelta(seconds=2 * BUSY_SECONDS), clock=clock)
        self._relay_lock = FileLock(Path(f"{engine.url.database}.relay.lock"))
        self._one_claim = asyncio.Lock()
        self._on_standby = on_standby
        self._stands_by = False

    @asynccontextmanager
    async def claim(self, *, limit: int, size: int) -> AsyncIterator[Claim]:
        # No row is locked, so two claims of this process at a time would read the same rows.
        async with self._one_claim:
            claimed = await self._select(limit, size) if self._is_active() else ClaimedRows([])

            async def settle(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
                if not has_changes(verdicts):
                    return verdicts
                with driver_errors_translated():
                    try:
                        async with self._transaction() as connection:
                            await self.settlement.apply(connection, verdicts)
                    except (DBAPIError, RowsUnchangedError) as error:
                        if not is_about_rows(error):
                            raise
                    else:
                        return verdicts
                    async with self._apart() as scope:
                        return await self.settle_apart(scope, verdicts)

            yield Claim(claimed.rows, claimed.more, settle)

    async def close(self) -> None:
        self._relay_lock.close()

    def _is_active(self) -> bool:
        with driver_errors_translated():
            stands_by = not self._relay_lock.acquire()
        if stands_by != self._stands_by:
            self._stands_by = stands_by
            self._on_standby(stands_by)
        return not stands_by

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            await connection.execution_options(**NOT_DURABLE)
            yield connection
            await commit(connection)

    @asynccontextmanager
    async def _apart(self) -> AsyncIterator[Scope]:
        # No savepoints: only a commit checks deferred constraints, and a trigger may end the whole
        # transaction.
        yield self._transaction

    async def _select(self, limit: int, size: int) -> ClaimedRows:
        # SQLite keeps no deleted rows in the index, so each claim scans from the beginning.
        self.claimer.released()
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**self.read_only)
                read = read_sqlite(connection)
                return self.without_stuck(await self.claimer.select(read, limit=limit, size=size))

    def _head_parameters(self, heads: KeyHeads) -> dict[str, Any]:
        urgent = [id_ for key, id_ in heads.ids.items() if key in heads.urgent]
        return {"heads": json.dumps(list(heads.ids.values())), "urgent": json.dumps(urgent)}
