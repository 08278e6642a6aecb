"""
A delivery, and the buffer in which deliveries wait between the socket and the dispatcher.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from outbox.errors import BrokerUnavailable, UnreadableMessage
from outbox.wire import foreign
from outbox.wire.codec import WireMessage
from outbox.wire.headers import Headers, parse


# Not frozen, like WireMessage, because creating a frozen object would slow each delivery.
@dataclass(slots=True)
class Delivery:
    """
    A message that the broker delivered to this process and that is not settled yet.

    Args:
        tag: The broker's number of the delivery.
        decode_error: A reason code if the broker's frames could be separated but not read; then
            the body and the readable properties are in *message*.
        decode_detail: What could not be read, such as the name of an attribute; never a value.

    """

    message: WireMessage
    tag: int
    redelivered: bool
    decode_error: str | None = None
    decode_detail: str = ""
    _headers: Headers | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def headers(self) -> Headers:
        """The wire format's headers of the message, parsed once."""
        if self._headers is None:
            self._headers = parse(self.message.headers)
        return self._headers

    def read_foreign(self) -> None:
        """Replace a message that follows another convention by one of the wire format."""
        message = self.message
        # Without a call into another module, as this is asked of each message.
        is_ours = (
            foreign.HEADERS.isdisjoint(message.headers)
            and message.type != foreign.ENCODED
            and not foreign.is_structured(message.content_type)
        )
        if is_ours or self.decode_error is not None:
            return
        try:
            self.message = foreign.read(message)
        except UnreadableMessage as error:
            self.decode_error, self.decode_detail = error.code, error.detail
        self._headers = None


class DeliveryBuffer:
    """
    Deliveries that no task has taken yet.

    It ends with `end` or with `fail`; after both, `take` raises the error of `fail`.
    """

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        # Set while `take` need not wait.
        self._ready = asyncio.Event()
        self._ended = False
        self._problem: str | None = None
        self._refused = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ended(self) -> bool:
        return self._ended

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """Add *deliveries*; after `end` only `drain` returns them, after `fail` none are kept."""
        if self._problem is None:
            self._waiting.extend(deliveries)
            self._ready.set()

    async def take(self, limit: int) -> list[Delivery]:
        """
        Wait for a delivery and return up to *limit*; empty after `end`.

        Raises BrokerUnavailable after `fail`.
        """
        if limit < 1:
            raise ValueError("limit: must be at least 1")
        # In a loop, because another task may have taken the delivery that woke this one.
        while not self._ended:
            if taken := self._pop(limit):
                for delivery in taken:
                    delivery.read_foreign()
                return taken
            self._ready.clear()
            await self._ready.wait()
        if self._problem is not None:
            raise BrokerUnavailable(self._problem, refused=self._refused)
        return []

    def end(self) -> None:
        """Make `take` return no more deliveries."""
        self._ended = True
        self._ready.set()

    def drain(self) -> list[Delivery]:
        """Remove and return all deliveries that were not taken."""
        return self._pop(len(self._waiting))

    def fail(self, problem: str, *, refused: bool = False) -> None:
        """Make `take` raise BrokerUnavailable with *problem*, and drop all deliveries."""
        self._problem, self._refused = problem, refused
        self._waiting.clear()
        self.end()

    def _pop(self, limit: int) -> list[Delivery]:
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(limit, len(waiting)))]
