"""
Acks and nacks of deliveries from RabbitMQ.

Acks are sent together, in one write and as few frames as possible: an ack costs broker and client
more than the row that the handler writes. No caller waits for acks, because the broker does not
confirm them: if an ack is lost, the message is delivered again; a lost connection shows in `take`.

The broker numbers the deliveries of a channel 1, 2, 3 without a gap. An ack with `multiple`
settles all deliveries up to a tag, so it is sent only if they are all to be acked or settled.
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
"""Longest time that an ack waits for others."""
FLUSH_AT = 256
"""Number of waiting acks that is sent at once."""

_METHOD, _END = 1, 0xCE
_BASIC, _ACK, _NACK = Basic.frame_id, 80, 120
_MULTIPLE, _REQUEUE = 1, 2
_SETTLE = struct.Struct(">BHIHHQBB")
_SIZE = struct.calcsize(">HHQB")


@dataclass(frozen=True, slots=True)
class AckBatch:
    """
    The acks to send to the broker.

    Args:
        up_to: Ack all deliveries up to this tag, or None.
        single: Tags to ack one by one; all are above *up_to*.

    """

    up_to: int | None
    single: list[int]


class AckTracker:
    """The settled tags of one channel, whether the broker knows of them or not."""

    def __init__(self) -> None:
        # All tags up to this one were reported; above it some were, and some wait to be.
        self._low = 0
        self._reported: set[int] = set()
        self._waiting: set[int] = set()

    @property
    def waiting(self) -> int:
        """Number of acks that were not sent to the broker yet."""
        return len(self._waiting)

    def ack(self, tags: Iterable[int]) -> None:
        """Include *tags* in the next `collect`, unless they are settled already."""
        self._waiting.update(self.unsettled(tags))

    def mark_settled(self, tags: Iterable[int]) -> None:
        """Record that *tags* were settled by another frame: they were requeued."""
        self._reported.update(self.unsettled(tags))

    def unsettled(self, tags: Iterable[int]) -> list[int]:
        """Return those of *tags* that are not settled, in their order."""
        low, reported, waiting = self._low, self._reported, self._waiting
        return [tag for tag in tags if tag > low and tag not in reported and tag not in waiting]

    def collect(self) -> AckBatch:
        """Return the acks to send; they count as reported from now on."""
        waiting, reported, low, up_to = self._waiting, self._reported, self._low, None
        while True:
            following = low + 1
            if following in waiting:
                waiting.remove(following)
                up_to = following
            elif following in reported:
                reported.remove(following)
            else:
                break
            low = following
        single = sorted(waiting)
        reported |= waiting
        waiting.clear()
        self._low = low
        return AckBatch(up_to, single)


class Acks(Protocol):
    """Settles deliveries; methods that wait for the network raise BrokerUnavailable."""

    async def ack(self, tags: Sequence[int]) -> None:
        """Ack *tags*, with a short delay."""

    async def release(self, tags: Sequence[int]) -> None:
        """Requeue *tags*."""

    @property
    def waiting(self) -> int:
        """Number of acks that were not sent to the broker yet."""

    def flush(self) -> None:
        """Send the waiting acks now."""

    async def close(self) -> None:
        """Send the waiting acks, and return when they are written; never raises."""


class BatchedAcks:
    """Acks that are collected for a few milliseconds, and written as frames of our own."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._settled = AckTracker()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._settled.waiting

    async def ack(self, tags: Sequence[int]) -> None:
        self._settled.ack(tags)
        if self.waiting >= FLUSH_AT:
            self.flush()
        elif self._timer is None and self.waiting:
            self._schedule_flush()

    async def release(self, tags: Sequence[int]) -> None:
        if not (tags := self._settled.unsettled(tags)):
            return
        with connection_errors():
            if self._channel.is_closed:
                raise BrokerUnavailable("the connection was lost")
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._channel.write_queue.put(_channel_frame(self._nacks(tags)))
        # Only now: an ack with `multiple` that overtook the nack would ack these tags too.
        self._settled.mark_settled(tags)

    def flush(self) -> None:
        self._stop_timer()
        if not self.waiting or self._channel.is_closed:
            return
        if self._channel.write_queue.full():
            self._schedule_flush()
        else:
            self._channel.write_queue.put_nowait(_channel_frame(self._collected()))

    async def close(self) -> None:
        self._stop_timer()
        if self._channel.is_closed:
            return
        with suppress(BrokerUnavailable), connection_errors():
            async with asyncio.timeout(CLOSE_SECONDS):
                # Even if it is empty: the write queue is dropped with the connection, and may
                # still contain earlier frames.
                out = self._channel.create_future()
                await self._channel.write_queue.put(_channel_frame(self._collected(), out))
                await out

    def _schedule_flush(self) -> None:
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


def _channel_frame(payload: bytes, out: "asyncio.Future[None] | None" = None) -> ChannelFrame:
    """Wrap *payload* for the write queue; *out* is done when it was written to the socket."""
    return ChannelFrame(payload=payload, should_close=False, drain_future=out)
