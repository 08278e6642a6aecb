"""
A consumer for tests that kill its processes: effects in the database and outside of it.

Each call of a leased handler writes a line to the output.
"""

import sys
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, OnLeaseExpired
from tests.support.effects import apply, fail_always, fail_once

LEASE = timedelta(seconds=1)
CALLED = "handler_called"

consumer = Consumer("crashing", bindings=["test.#"])
consumer.on("test.happened")(apply)
consumer.on("test.fails.once")(fail_once)
consumer.on("test.fails.always")(fail_always)


@consumer.on("test.recovers")
async def recover(message: Message[Any], session: AsyncSession) -> None:
    """Fail until the message is redelivered."""
    await apply(message, session)
    if not message.redelivered:
        raise RuntimeError


@consumer.on_leased("test.leased.repeat", lease=LEASE)
async def leased_repeat(_message: Message[Any]) -> None:
    print(CALLED, file=sys.stderr, flush=True)  # noqa: T201


@consumer.on_leased("test.leased.stop", lease=LEASE, on_expired=OnLeaseExpired.DEAD_LETTER)
async def leased_stop(message: Message[Any]) -> None:
    await leased_repeat(message)
