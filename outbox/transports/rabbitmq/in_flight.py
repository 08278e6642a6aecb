"""
The limits of messages in flight on one channel, and waiting for their confirms.

Invariants:

- No two publishes in flight share a message id, because returned messages are matched by it.
- At most MAX_MESSAGES are in flight, unless a single batch is larger. All of them are published
  again after a lost connection, and a higher limit makes publishing no faster.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from outbox.transports.rabbitmq.send_progress import unsent_bytes
from outbox.wire.codec import WireMessage

MAX_MESSAGES = 1_000
MAX_BYTES = 8 * 1024 * 1024
BLOCK_CHECK_SECONDS = 0.25
"""Interval at which a wait for confirms checks whether the broker blocked the connection."""


class InFlight:
    """The messages in flight on one channel; waiting batches enter in their order."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._entry = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether no message is in flight."""
        return not self._ids

    @asynccontextmanager
    async def room(self, ids: Collection[str], *, deadline: float) -> AsyncIterator[None]:
        """
        Hold *ids* in flight during the block, after waiting until there is room for them.

        There is no room while one of *ids* is in flight already.
        Raises TimeoutError if there is none by *deadline*.
        """
        async with asyncio.timeout_at(deadline), self._entry:
            while not self._fits(ids):
                self._released.clear()
                await self._released.wait()
            self._ids.update(ids)
        try:
            yield
        finally:
            self._ids.difference_update(ids)
            self._released.set()

    def _fits(self, ids: Collection[str]) -> bool:
        if not self._ids:
            return True
        return len(self._ids) + len(ids) <= MAX_MESSAGES and self._ids.isdisjoint(ids)


def windows(messages: Sequence[WireMessage]) -> Iterator[range]:
    """Yield the positions of *messages* in parts that may each be in flight at once."""
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


def is_blocked(connection: Any) -> bool:
    """Return whether the broker blocks aiormq's *connection* because memory or disk is low."""
    # `ready` returns without a pause unless the connection is blocked: its first step shows that.
    ready = connection.ready()
    try:
        ready.send(None)
    except StopIteration:
        return False
    ready.close()
    return True


async def wait_for_confirms(
    waiting: Collection["asyncio.Future[Any]"],
    *,
    connection: Any,
    deadline: float,
    missing: Callable[[], int] = lambda: 0,
) -> None:
    """
    Return when all of *waiting* are done, *deadline* passes or the broker blocks publishes.

    While the broker still receives or confirms messages, the deadline moves on: the time that is
    left at first begins again, and as much as has passed. Buffers on the way may hold as much as
    was seen to leave. *missing* returns how many confirms are missing, those of messages that were
    sent before included: on a slow network these arrive first.
    """
    loop = asyncio.get_running_loop()
    pending = set(waiting)
    began = loop.time()
    patience = deadline - began
    before = (unsent_bytes(connection), missing(), len(pending))
    while pending and (left := deadline - loop.time()) > 0:
        _, pending = await asyncio.wait(pending, timeout=min(left, BLOCK_CHECK_SECONDS))
        if not pending or is_blocked(connection):
            return
        now = (unsent_bytes(connection), missing(), len(pending))
        if now != before:
            passed = loop.time() - began
            before, deadline = now, max(deadline, began + patience + 2 * passed)
