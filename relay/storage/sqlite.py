"""
The outbox in a SQLite file: one relay, and a claim that holds no lock.

SQLite has one writer. A claim that held its transaction open while publishing would stop every
producer, so the rows are only read, published, and then removed in a short transaction. This is
safe because a single relay works on the file: a lock on a side file sees to it, which the
operating system releases however the relay ends. Other relays stand by.
"""

import fcntl
import json
import os
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.runtime.engine import DEFERRED, commit, translated
from outbox.tables import outbox
from relay.storage.base import Claim, Row
from relay.storage.sql import SqlStore, changes_something
from relay.verdict import Verdict

_key = sa.func.json_each(sa.bindparam("keys", type_=sa.Text)).table_valued("value")
_first = outbox.alias("first")
_ROWS_OF_KEYS = (
    sa.select(outbox)
    .select_from(_key.join(outbox, sa.true()))
    .where(
        outbox.c.id.in_(
            sa.select(_first.c.id)
            .where(_first.c.ordering_key == _key.c.value)
            .order_by(_first.c.id)
            .limit(sa.bindparam("rows"))
            .correlate(_key)
        )
    )
    .order_by(outbox.c.ordering_key, outbox.c.id)
)


class SqliteStore(SqlStore):
    """The outbox in the SQLite file of *engine*."""

    rows_of_keys = _ROWS_OF_KEYS

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._lock = _FileLock(Path(f"{engine.url.database}.relay.lock"))

    @asynccontextmanager
    async def claim(self, *, limit: int) -> AsyncIterator[Claim]:
        rows = await self._read(limit) if self._lock.acquire() else []

        async def settle(verdicts: Sequence[Verdict]) -> None:
            if not changes_something(verdicts):
                return
            with translated():
                async with self._engine.connect() as connection:
                    await self.settle(connection, verdicts)
                    await commit(connection)

        yield Claim(rows, settle)

    async def _read(self, limit: int) -> list[Row]:
        with translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**DEFERRED)
                return await self.select(connection, limit)

    def _keys(self, keys: Sequence[str]) -> str:
        return json.dumps(list(keys))


class _FileLock:
    """An exclusive lock on a file, for as long as this object or its process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False

    def acquire(self) -> bool:
        """Whether the lock is ours, now or since earlier."""
        if self._held:
            return True
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        weakref.finalize(self, os.close, file)
        self._held = True
        return True
