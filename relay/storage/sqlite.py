"""
The outbox in a SQLite file: one relay, and a claim that holds no lock.

SQLite has one writer. A claim that held its transaction open while publishing would stop every
producer, so the rows are only read, published, and then removed in a short transaction. This is
safe because a single relay works on the file: a lock on a side file sees to it, which the
operating system releases however the relay ends. Other relays stand by.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.file_lock import FileLock
from outbox.database.sqlite_engine import BUSY_SECONDS
from outbox.runtime.shield import commit
from outbox.tables import outbox
from relay.storage.base import Claim
from relay.storage.claim import ClaimedRows
from relay.storage.claim_statements import SIZE, measured, position_in_key
from relay.storage.sql import SqlStore, changes_something
from relay.verdict import Verdict

_chosen = sa.func.json_each(sa.bindparam("heads", type_=sa.Text)).table_valued("value")
_head, _first = outbox.alias("head"), outbox.alias("first")
_KEYED_CANDIDATES = (
    sa.select(outbox.c.id, SIZE, position_in_key(outbox))
    .select_from(
        _chosen.join(_head, _head.c.id == _chosen.c.value).join(outbox, sa.true()),
    )
    .where(
        outbox.c.id.in_(
            sa.select(_first.c.id)
            .where(_first.c.ordering_key == _head.c.ordering_key)
            .order_by(_first.c.id)
            .limit(sa.bindparam("rows"))
            .correlate(_head)
        )
    )
)


class SqliteStore(SqlStore):
    """The outbox in the SQLite file of *engine*."""

    of_keys = measured(_KEYED_CANDIDATES)
    only_reading = DEFERRED

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, patience=timedelta(seconds=2 * BUSY_SECONDS))
        self._lock = FileLock(Path(f"{engine.url.database}.relay.lock"))
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def claim(self, *, limit: int, size: int) -> AsyncIterator[Claim]:
        # Claims of this process take turns: nothing but that keeps their rows apart.
        async with self._turn:
            with driver_errors_translated():
                mine = self._lock.acquire()
            found = await self._look(limit, size) if mine else ClaimedRows([])

            async def settle(verdicts: Sequence[Verdict]) -> None:
                if changes_something(verdicts):
                    with driver_errors_translated():
                        async with self._engine.connect() as connection:
                            await self.settle(connection, verdicts)
                            await commit(connection)

            yield Claim(found.rows, found.more, settle)

    async def _look(self, limit: int, size: int) -> ClaimedRows:
        # There are no dead rows to walk over, so nothing is passed over either.
        self.claimer.released()
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**self.only_reading)
                return await self.claimer.select(connection, limit=limit, size=size)

    def _parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        return {"heads": json.dumps(list(heads.values()))}
