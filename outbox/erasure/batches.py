"""
Waiting until the batches of consumers have ended that may have read a key before it was refused.

Each holds a lock on the table of keys until its end, see `outbox.key_store.reader`. On SQLite the
commit that refused the keys has waited already.
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
    Return once the transactions that hold a lock on the table of keys now have ended.

    Raises BatchesNotEnded, which names them, after *within*.
    """
    if engine.dialect.name == "sqlite":
        return
    loop = asyncio.get_running_loop()
    began = loop.time()
    next_report = began + REPORT_SECONDS
    older = await _holders(engine)
    while older:
        passed = timedelta(seconds=loop.time() - began)
        names = sorted(older.values())
        if passed >= within:
            raise BatchesNotEnded(
                f"--wait: not ended after {within.total_seconds():g} seconds: {'; '.join(names)}."
                " The keys are refused, and not destroyed yet: run the command again"
            )
        if loop.time() >= next_report:
            report(passed, names)
            next_report += REPORT_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        now = await _holders(engine)
        older = {each: name for each, name in older.items() if each in now}


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
