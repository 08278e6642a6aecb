"""
Copies of messages for an observer, who takes no message from a consumer.

An observer may lose copies, and must never hold up a publisher: each place where copies wait is
bounded, and drops the oldest ones. No copy counts as a queue that has the message: an event that
only an observer would see is returned as unroutable, and stays in the outbox.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from outbox.errors import BrokerUnavailable
from outbox.wire.codec import WireMessage

MOST_COPIES = 1_000
"""Copies that wait in one place."""
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of the bodies of copies that wait in one place."""


@dataclass(frozen=True, slots=True)
class Copy:
    """
    A copy of a message that was published.

    Args:
        message: As the publisher sent it; its body is empty unless the observer asked for bodies.
        size: The bytes of the body.
        queues: The queues that it was routed to; none if it is unroutable.

    """

    message: WireMessage
    size: int
    queues: Sequence[str]


class Observation(Protocol):
    """Copies of the messages that an observer has chosen, while it lasts."""

    @property
    def missed(self) -> int:
        """Copies that are known to be lost, as the observer was too slow; there may be more."""

    async def take(self, limit: int) -> list[Copy]:
        """
        Wait for a copy and return up to *limit*, in the order in which they were published.

        Raises BrokerUnavailable when the connection is lost.
        """


class CopyBuffer:
    """Copies that no task has taken yet: at most *most*, and at most *most_bytes* of bodies."""

    def __init__(self, most: int = MOST_COPIES, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._problem: str | None = None
        self.missed = 0
        """Copies that were dropped."""

    def put(self, copies: Iterable[Copy]) -> None:
        """Add *copies*; the oldest ones are dropped beyond the bounds."""
        for copy in copies:
            self._waiting.append(copy)
            self._bytes += len(copy.message.body)
            while len(self._waiting) > self._most or self._bytes > self._most_bytes:
                self._pop()
                self.missed += 1
        if self._waiting:
            self._ready.set()

    async def take(self, limit: int) -> list[Copy]:
        """Wait for a copy and return up to *limit*; after `fail`, raise once all are taken."""
        while not self._waiting:
            if self._problem is not None:
                raise BrokerUnavailable(self._problem)
            self._ready.clear()
            await self._ready.wait()
        return [self._pop() for _ in range(min(limit, len(self._waiting)))]

    def fail(self, problem: str) -> None:
        """Make `take` raise BrokerUnavailable with *problem*, once the copies are taken."""
        self._problem = problem
        self._ready.set()

    def _pop(self) -> Copy:
        copy = self._waiting.popleft()
        self._bytes -= len(copy.message.body)
        return copy
