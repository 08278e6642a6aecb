"""
The consumers of a run: `free` handles messages in parallel, `ordered` in the order of each key.

Their handlers record each effect. Some attempts fail, with health data in the text of the error. A
file in the directory of the run makes one handler block its event loop, or sleep.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message
from tests.reliability.tables import effects

DIRECTORY = "RELIABILITY_DIRECTORY"
BLOCK, SLEEP = "block", "linger"
HAPPENED, FAILS_ONCE, FAILS_ALWAYS = "run.happened", "run.fails.once", "run.fails.always"

free = Consumer("free", bindings=["run.#"])
ordered = Consumer("ordered", bindings=["run.#"], ordered=True)


async def apply(message: Message[Any], session: AsyncSession, *, consumer: str) -> None:
    await _disturbed()
    await session.execute(
        sa.insert(effects).values(event_id=message.id, consumer=consumer, attempt=message.attempt)
    )


@free.on(HAPPENED, batch_size=5)
async def apply_freely(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session, consumer=free.name)


@free.on(FAILS_ONCE)
async def fail_once(message: Message[Any], session: AsyncSession) -> None:
    await apply_freely(message, session)
    if message.attempt == 1:
        raise RuntimeError(message.payload["patient"])


@free.on(FAILS_ALWAYS)
async def fail_always(message: Message[Any], session: AsyncSession) -> None:
    await apply_freely(message, session)
    raise RuntimeError(message.payload["patient"])


@ordered.on(HAPPENED)
@ordered.on(FAILS_ALWAYS)
async def apply_in_order(message: Message[Any], session: AsyncSession) -> None:
    await apply(message, session, consumer=ordered.name)


@ordered.on(FAILS_ONCE)
async def fail_once_in_order(message: Message[Any], session: AsyncSession) -> None:
    await apply_in_order(message, session)
    if message.attempt == 1:
        raise RuntimeError(message.payload["patient"])


async def _disturbed() -> None:
    """
    Block the event loop or sleep, for the seconds in the file, if this handler takes it first.
    """
    if (seconds := _taken(BLOCK)) is not None:
        time.sleep(seconds)  # noqa: ASYNC251 - it is the fault
    if (seconds := _taken(SLEEP)) is not None:
        await asyncio.sleep(seconds)


def _taken(name: str) -> float | None:
    """The content of the file *name*, for the first process that removes it."""
    file = Path(os.environ[DIRECTORY]) / name
    if not file.exists():
        return None
    mine = file.with_name(f"{name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        file.rename(mine)
        return float(mine.read_text())
    return None
