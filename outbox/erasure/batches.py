"""
Waiting until the batches of consumers have ended that may have read a key before it was refused.

Each holds a lock until its end: on the table of keys, or on SQLite on a file beside it; see
`outbox.key_store.reader` and `batch_file`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.sqlite_file_lock import FileLock
from outbox.errors import BatchesNotEnded
from outbox.key_store.batch_file import BatchFile

LOOK_SECONDS = 0.05
REPORT_SECONDS = 5.0

Report: TypeAlias = Callable[[timedelta, list[str]], None]
"""Called every few seconds with the time that has passed, and the names of the sessions."""

_HOLDERS = sa.text("""
SELECT lock.virtualtransaction,
       coalesce(nullif(activity.application_name, ''), 'a session without a name')
           || coalesce(', pid ' || lock.pid, ', prepared')
  FROM pg_locks AS lock
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
 WHERE lock.locktype = 'relation' AND lock.granted
   AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND lock.relation = 'subject_keys'::regclass
   AND lock.pid IS DISTINCT FROM pg_backend_pid()
""")
"""
The transactions that have used the table; a lock on it is held until the end of the transaction.

One that takes its lock later takes its snapshot later as well, and sees which keys are refused.
"""
_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtext('outbox erasure'))")


async def wait_for_older(engine: AsyncEngine, *, within: timedelta, report: Report) -> None:
    """
    Return once the batches that have begun before have ended.

    Raises BatchesNotEnded, which names their sessions, after *within*.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    next_report = began + REPORT_SECONDS
    older = _older_of(engine)
    while names := await older():
        passed = timedelta(seconds=loop.time() - began)
        if passed >= within:
            raise BatchesNotEnded(
                f"--wait: not ended after {within.total_seconds():g} seconds: {'; '.join(names)}."
                " The keys are refused, and not destroyed yet: run the command again"
            )
        if loop.time() >= next_report:
            report(passed, names)
            next_report += REPORT_SECONDS
        await asyncio.sleep(LOOK_SECONDS)


def _older_of(engine: AsyncEngine) -> Callable[[], Awaitable[list[str]]]:
    """A function whose calls name those of the batches of the first call that have not ended."""
    if engine.dialect.name == "sqlite":
        file, began = BatchFile(engine.url.database or ""), False

        async def by_file() -> list[str]:
            nonlocal began
            began = began or file.begin()
            return [] if began and file.is_free() else ["batches of consumers"]

        return by_file
    older: dict[str, str] | None = None

    async def by_locks() -> list[str]:
        nonlocal older
        now = await _holders(engine)
        older = {each: now[each] for each in now if older is None or each in older}
        return sorted(older.values())

    return by_locks


async def _holders(engine: AsyncEngine) -> Mapping[str, str]:
    async with engine.connect() as connection:
        found = await connection.execute(_HOLDERS)
        return {row[0]: row[1] for row in found}


@asynccontextmanager
async def alone(engine: AsyncEngine, *, within: timedelta) -> AsyncIterator[None]:
    """
    Keep other erasures from working on the key database of *engine*.

    The lock of one that was killed lasts until its server has noticed. Raises BatchesNotEnded if
    another one works longer than *within*.
    """
    if engine.dialect.name == "sqlite":
        lock = FileLock(Path(f"{engine.url.database}-erasure"))
        try:
            await _acquired(partial(_answer, lock.acquire), within)
            yield
        finally:
            lock.close()
        return
    async with engine.connect() as connection:
        await _acquired(partial(connection.scalar, _LOCK), within)
        yield


async def _acquired(attempt: Callable[[], Awaitable[bool | None]], within: timedelta) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within.total_seconds()
    while not await attempt():
        if loop.time() >= deadline:
            raise BatchesNotEnded(
                "--wait: another erasure is working on this key database: wait for its end"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def _answer(attempt: Callable[[], bool]) -> bool:
    return attempt()
