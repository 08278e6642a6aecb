"""
A delivery, and the buffer in which deliveries wait between the socket and the dispatcher.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from outbox.errors import BrokerUnavailable
from outbox.wire.codec import WireMessage
from outbox.wire.headers import Headers, parse


# Not frozen for the reason that WireMessage is not: making one is part of a delivery's cost.
@dataclass(slots=True)
class Delivery:
    """
    A message that was handed to this process and is not yet settled.

    Args:
        tag: The broker's number of the delivery.
        decode_error: A reason code if the broker's frames could be separated but not read; then
            the body and the readable properties are in *message*.

    """

    message: WireMessage
    tag: int
    redelivered: bool
    decode_error: str | None = None
    _headers: Headers | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def headers(self) -> Headers:
        """The wire format's headers of the message, parsed once."""
        if self._headers is None:
            self._headers = parse(self.message.headers)
        return self._headers


class DeliveryBuffer:
    """
    Deliveries that no task has taken yet.

    It ends once: regularly, or because the connection was lost, which has the last word.
    """

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        # Set while a `take` has no reason to wait.
        self._ready = asyncio.Event()
        self._ended = False
        self._problem: str | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ended(self) -> bool:
        return self._ended

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """Add *deliveries*; after the end they are for `left` alone."""
        if self._problem is None:
            self._waiting.extend(deliveries)
            self._ready.set()

    async def take(self, limit: int) -> list[Delivery]:
        """
        Up to *limit* deliveries, as soon as there is one; empty after the end.

        Raises BrokerUnavailable if it ended with a loss.
        """
        if limit < 1:
            raise ValueError("limit: must be at least 1")
        # In a loop, because another task may have taken what woke this one.
        while not self._ended:
            if taken := self._pop(limit):
                return taken
            self._ready.clear()
            await self._ready.wait()
        if self._problem is not None:
            raise BrokerUnavailable(self._problem)
        return []

    def end(self) -> None:
        """Give out nothing more."""
        self._ended = True
        self._ready.set()

    def left(self) -> list[Delivery]:
        """What nobody has taken, and nobody will."""
        return self._pop(len(self._waiting))

    def lose(self, problem: str) -> None:
        """Raise BrokerUnavailable with *problem* from now on; what was waiting comes again."""
        self._problem = problem
        self._waiting.clear()
        self.end()

    def _pop(self, limit: int) -> list[Delivery]:
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(limit, len(waiting)))]
