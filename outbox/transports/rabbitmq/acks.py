"""
Telling RabbitMQ what became of its deliveries.

Most acks are told together, in one write and as few frames as possible: an ack costs broker and
client more than the row that is written for it. Nobody waits for that, since acks are not
confirmed: if one is lost, the message comes again, and a lost connection shows in the deliveries.

The broker numbers the deliveries of a channel 1, 2, 3, without a gap. An ack of several settles
all deliveries up to a number, so it is sent only if each of them is to be acked or is settled.
"""

import asyncio
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from aiormq.abc import ChannelFrame
from pamqp.commands import Basic

from outbox.errors import BrokerUnavailable
from outbox.transports.rabbitmq.connection import CLOSE_SECONDS, connection_errors

DELAY_SECONDS = 0.003
"""How long an ack waits for others, at most."""
ENOUGH = 256
"""As many are told without waiting for more."""

_METHOD, _END = 1, 0xCE
_BASIC, _ACK, _NACK = Basic.frame_id, 80, 120
_MULTIPLE, _REQUEUE = 1, 2
_SETTLE = struct.Struct(">BHIHHQBB")
_SIZE = struct.calcsize(">HHQB")


@dataclass(frozen=True, slots=True)
class AckBatch:
    """
    What to tell the broker.

    Args:
        up_to: Ack everything up to this tag, or None.
        single: Tags to ack one by one; all are above *up_to*.

    """

    up_to: int | None
    single: list[int]


class AckTracker:
    """The tags of one channel that are settled, told to the broker or not yet."""

    def __init__(self) -> None:
        # All up to this one are told; above it some are told, and some wait for that.
        self._low = 0
        self._told: set[int] = set()
        self._waiting: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many acks the broker has not been told."""
        return len(self._waiting)

    def ack(self, tags: Iterable[int]) -> None:
        """Have *tags* acked by the next `collect`. Those that are settled already stay so."""
        self._waiting.update(self.unsettled(tags))

    def tell(self, tags: Iterable[int]) -> None:
        """The broker has been told about *tags* in another way: they were put back."""
        self._told.update(self.unsettled(tags))

    def unsettled(self, tags: Iterable[int]) -> list[int]:
        """Those of *tags* that are not settled, in their order."""
        low, told, waiting = self._low, self._told, self._waiting
        return [tag for tag in tags if tag > low and tag not in told and tag not in waiting]

    def collect(self) -> AckBatch:
        """What the broker has to be told; it counts as told from now on."""
        waiting, told, low, up_to = self._waiting, self._told, self._low, None
        while True:
            following = low + 1
            if following in waiting:
                waiting.remove(following)
                up_to = following
            elif following in told:
                told.remove(following)
            else:
                break
            low = following
        single = sorted(waiting)
        told |= waiting
        waiting.clear()
        self._low = low
        return AckBatch(up_to, single)


class Acks(Protocol):
    """How deliveries are settled. Raises BrokerUnavailable where it waits for the network."""

    async def ack(self, tags: Sequence[int]) -> None:
        """Ack *tags*, soon."""

    async def release(self, tags: Sequence[int]) -> None:
        """Put *tags* back into the queue."""

    @property
    def waiting(self) -> int:
        """How many acks the broker has not been told."""

    def flush(self) -> None:
        """Tell what waits, now."""

    async def close(self) -> None:
        """Tell what waits, and return once it is out; never raises."""


class BatchedAcks:
    """Acks as frames of ours, gathered for a few milliseconds."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._settled = AckTracker()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._settled.waiting

    async def ack(self, tags: Sequence[int]) -> None:
        self._settled.ack(tags)
        if self.waiting >= ENOUGH:
            self.flush()
        elif self._timer is None and self.waiting:
            self._later()

    async def release(self, tags: Sequence[int]) -> None:
        if not (tags := self._settled.unsettled(tags)):
            return
        with connection_errors():
            if self._channel.is_closed:
                raise BrokerUnavailable("the connection was lost")
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._channel.write_queue.put(_written(self._nacks(tags)))
        # Only now: an ack of several that overtook this would settle them for good.
        self._settled.tell(tags)

    def flush(self) -> None:
        self._stop_timer()
        if not self.waiting or self._channel.is_closed:
            return
        if self._channel.write_queue.full():
            self._later()
        else:
            self._channel.write_queue.put_nowait(_written(self._collected()))

    async def close(self) -> None:
        self._stop_timer()
        if self._channel.is_closed:
            return
        with suppress(BrokerUnavailable), connection_errors():
            async with asyncio.timeout(CLOSE_SECONDS):
                # Even if it is empty: the write queue is dropped with the connection, and what
                # was put there before may still be in it.
                out = self._channel.create_future()
                await self._channel.write_queue.put(_written(self._collected(), out))
                await out

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self.flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _collected(self) -> bytes:
        acks, number = self._settled.collect(), self._channel.number
        frames = [_settle(number, _ACK, tag, 0) for tag in acks.single]
        if acks.up_to is not None:
            frames.insert(0, _settle(number, _ACK, acks.up_to, _MULTIPLE))
        return b"".join(frames)

    def _nacks(self, tags: Iterable[int]) -> bytes:
        number = self._channel.number
        return b"".join(_settle(number, _NACK, tag, _REQUEUE) for tag in tags)


def _settle(channel: int, method: int, tag: int, flags: int) -> bytes:
    return _SETTLE.pack(_METHOD, channel, _SIZE, _BASIC, method, tag, flags, _END)


def _written(payload: bytes, out: "asyncio.Future[None] | None" = None) -> ChannelFrame:
    """*payload* for the write queue; *out* is done when it has left the process."""
    return ChannelFrame(payload=payload, should_close=False, drain_future=out)
