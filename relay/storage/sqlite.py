"""
The outbox in a SQLite file: one relay, and a claim that holds no lock.

SQLite has one writer. A claim that kept its transaction open while publishing would block every
producer, so the relay only reads the rows, publishes them, and then deletes them in a short
transaction. This is safe because a single relay works on the file: it holds a lock on a side file,
which the operating system releases however the relay ends. Other relays wait until then.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.sqlite_engine import BUSY_SECONDS
from outbox.database.sqlite_file_lock import FileLock
from outbox.runtime.shield import commit
from relay.storage.base import Claim
from relay.storage.claim_statements import SQLITE_CLAIM_KEYED, SQLITE_CLAIM_UNKEYED
from relay.storage.claimed_rows import ClaimedRows
from relay.storage.sql_store import SqlStore, has_changes
from relay.verdict import Verdict


class SqliteStore(SqlStore):
    """The outbox in the SQLite file of *engine*."""

    claim_unkeyed = SQLITE_CLAIM_UNKEYED
    claim_keyed = SQLITE_CLAIM_KEYED
    read_only = DEFERRED

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, timeout=timedelta(seconds=2 * BUSY_SECONDS))
        self._relay_lock = FileLock(Path(f"{engine.url.database}.relay.lock"))
        self._one_claim = asyncio.Lock()

    @asynccontextmanager
    async def claim(self, *, limit: int, size: int) -> AsyncIterator[Claim]:
        # No row is locked, so two claims of this process at a time would read the same rows.
        async with self._one_claim:
            with driver_errors_translated():
                is_active = self._relay_lock.acquire()
            claimed = await self._select(limit, size) if is_active else ClaimedRows([])

            async def settle(verdicts: Sequence[Verdict]) -> None:
                if has_changes(verdicts):
                    with driver_errors_translated():
                        async with self._engine.connect() as connection:
                            await self.settle(connection, verdicts)
                            await commit(connection)

            yield Claim(claimed.rows, claimed.more, settle)

    async def _select(self, limit: int, size: int) -> ClaimedRows:
        # SQLite keeps no deleted rows in the index, so each claim scans from the beginning.
        self.claimer.released()
        with driver_errors_translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**self.read_only)
                return await self.claimer.select(connection, limit=limit, size=size)

    def _head_parameters(self, heads: Mapping[str, int]) -> dict[str, Any]:
        return {"heads": json.dumps(list(heads.values()))}
