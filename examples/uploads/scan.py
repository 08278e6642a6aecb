"""
Registers the files of a directory: `python -m examples.uploads.scan`.

Run it by a timer, or with `--watch` to scan every ten seconds. Two scans at once do no harm.
"""

import asyncio
import sys

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from examples.database import connect, upsert
from examples.uploads.directory import Directory, Found, configured
from examples.uploads.tables import registered

PAUSE_SECONDS = 10


async def scan(engine: AsyncEngine, directory: Directory) -> int:
    """Register all files that are new, or have another content; returns how many."""
    count = 0
    for found in await asyncio.to_thread(lambda: list(directory.files())):
        async with AsyncSession(engine) as session:
            if await _is_known(session, found):
                continue
        count += await _register(engine, directory, found)
    return count


async def _register(engine: AsyncEngine, directory: Directory, found: Found) -> bool:
    """
    Register the file *found* and record its event in one transaction; false if it was registered.

    The file is read before the transaction begins, which so takes milliseconds.
    """
    file = await asyncio.to_thread(directory.read, found)
    async with AsyncSession(engine) as session, session.begin():
        insert = upsert(registered, engine.dialect).values(
            key=file.key,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            modified_ns=found.modified_ns,
        )
        # A scan that registers the same file at the same time is waited for: one of them is new.
        added = await session.scalar(insert.on_conflict_do_nothing().returning(registered.c.key))
        if added is not None:
            outbox.add(session, file)
    return added is not None


async def _is_known(session: AsyncSession, found: Found) -> bool:
    known = sa.select(registered.c.key).filter_by(
        key=found.key, size_bytes=found.size_bytes, modified_ns=found.modified_ns
    )
    return await session.scalar(known.limit(1)) is not None


async def main(*, watch: bool) -> None:
    engine, directory = connect(), configured()
    while True:
        print(f"{await scan(engine, directory)} new files")
        if not watch:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(watch="--watch" in sys.argv))
