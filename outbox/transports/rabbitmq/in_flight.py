"""
How much may be in flight on one channel, and for how long an answer is waited for.

Invariants:

- No two publishes in flight share a message id, because returned messages are attributed by it.
- At most MAX_MESSAGES are in flight, unless a single batch is larger than that: all of them are
  published again when the connection breaks, and with more nothing gets faster.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from outbox.wire.codec import WireMessage

MAX_MESSAGES = 1_000
MAX_BYTES = 8 * 1024 * 1024
BLOCK_CHECK_SECONDS = 0.25
"""How often a wait for late answers looks whether the broker has blocked the connection."""


class InFlight:
    """The messages in flight on one channel. Who has waited longest is let in first."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._door = asyncio.Lock()
        self._left = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether nothing is in flight."""
        return not self._ids

    @asynccontextmanager
    async def room(self, ids: Collection[str], *, deadline: float) -> AsyncIterator[None]:
        """
        Hold *ids* in flight, as soon as there is room for them and no other of the same name.

        Raises TimeoutError if there is none by *deadline*.
        """
        async with asyncio.timeout_at(deadline), self._door:
            while not self._fits(ids):
                self._left.clear()
                await self._left.wait()
            self._ids.update(ids)
        try:
            yield
        finally:
            self._ids.difference_update(ids)
            self._left.set()

    def _fits(self, ids: Collection[str]) -> bool:
        if not self._ids:
            return True
        return len(self._ids) + len(ids) <= MAX_MESSAGES and self._ids.isdisjoint(ids)


def windows(messages: Sequence[WireMessage]) -> Iterator[range]:
    """The positions of *messages* in parts that are each small enough to be in flight at once."""
    start, size, ids = 0, 0, set[str]()
    for position, message in enumerate(messages):
        weight, name = len(message.body or b""), message.message_id
        full = position - start >= MAX_MESSAGES or size + weight > MAX_BYTES
        if position > start and (full or name in ids):
            yield range(start, position)
            start, size, ids = position, 0, set()
        size += weight
        if name and isinstance(name, str):
            ids.add(name)
    if start < len(messages):
        yield range(start, len(messages))


async def is_blocked(connection: Any) -> bool:
    """Whether the broker, for want of memory or disk, reads nothing from aiormq's *connection*."""
    try:
        # Without a pause, unless it is blocked: `ready` then has nothing to wait for.
        async with asyncio.timeout(0):
            await connection.ready()
    except TimeoutError:
        return True
    return False


async def wait_for_answers(
    waiting: Collection["asyncio.Future[Any]"], *, connection: Any, deadline: float
) -> None:
    """Return when all of *waiting* are done, *deadline* is over or the broker blocks us."""
    loop = asyncio.get_running_loop()
    pending = set(waiting)
    while pending and (left := deadline - loop.time()) > 0:
        _, pending = await asyncio.wait(pending, timeout=min(left, BLOCK_CHECK_SECONDS))
        if pending and await is_blocked(connection):
            return
