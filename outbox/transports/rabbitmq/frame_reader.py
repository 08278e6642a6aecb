"""
Deliveries taken out of the bytes of a connection, before aiormq reads them.

aiormq makes several objects of each frame, and a task of each delivery. Worse, what it cannot read
ends the connection, and the broker sends the same message again to the next one. Here the frames
of deliveries are cut out of the stream and read by `rabbitmq_content`; all others go on to aiormq
as they are, whole and in order. aiormq keeps the connection: handshake, TLS, heartbeats, channels.

This relies on less than what it replaces; `incompatibility` finds out whether it is all there:

- aiormq's Connection takes a `transport_factory`, which makes its StreamReader.
- asyncio hands all that comes in to the reader's `feed_data`, which may be replaced.
- aiormq takes a connection for dead that brings no frame for long. RabbitMQ sends no heartbeat
  while it sends deliveries, so now and then aiormq gets one for them.
"""

import asyncio
import inspect
import struct
from collections.abc import Callable
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import ChannelFrame
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory

from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.frame_decoder import DELIVER, read_deliver, read_header

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HEARTBEAT_EVERY_SECONDS = 1.0
"""Less than any heartbeat that can be asked for, and seldom enough to cost nothing."""

_FRAME = struct.Struct(">BHI")
_OVERHEAD = 8
_METHOD, _HEADER, _BODY = 1, 2, 3
_KINDS = frozenset({_METHOD, _HEADER, _BODY, HEARTBEAT[0]})
_END = HEARTBEAT[-1]
_NO_CHANNEL = -1


class FrameReader:
    """
    Splits what is fed into deliveries of one channel, and the rest.

    Args:
        hand_on: Gets the rest.
        clock: Seconds of any monotonic clock.

    """

    def __init__(self, hand_on: Callable[[bytes], None], *, clock: Callable[[], float]) -> None:
        self._hand_on = hand_on
        self._clock = clock
        self._heartbeat_at = 0.0
        self._channel = _NO_CHANNEL
        self._deliver: Callable[[list[Delivery]], None] = lambda _: None
        # The beginning of a frame whose end has not come, and how long it is at least.
        self._held: list[bytes] = []
        self._held_size = 0
        self._wanted = 0
        # The delivery whose content is coming in, and how much of its body is missing.
        self._current: Delivery | None = None
        self._pieces: list[bytes] = []
        self._missing = 0
        self._arrived: list[Delivery] = []
        self.heard = False
        """Whether anything was fed."""
        self.lost_track = False
        """Whether there was something that is no frame; since then all is handed on."""

    def follow(self, channel: int, deliver: Callable[[list[Delivery]], None]) -> None:
        """From now on call *deliver* with the deliveries of *channel*."""
        self._channel = channel
        self._deliver = deliver

    def feed(self, chunk: bytes) -> None:
        """Take what has come in; never raises for what it is."""
        self.heard = True
        if self.lost_track:
            self._hand_on(chunk)
            return
        data = self._whole(bytes(chunk))
        passed = self._split(data) if data else False
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self._deliver(arrived)
        if not passed:
            self._show_life()

    def _whole(self, chunk: bytes) -> bytes:
        """*chunk* behind what was held, or nothing if the frame is not complete even so."""
        if not self._held:
            return chunk
        self._held.append(chunk)
        self._held_size += len(chunk)
        if self._held_size < self._wanted:
            return b""
        data = b"".join(self._held)
        self._held = []
        return data

    def _split(self, data: bytes) -> bool:
        """Take the frames of *data*, and hold what is left of it. Whether any was handed on."""
        # `kept` is where that begins which is not ours, and is not handed on yet.
        at, kept, size, passed = 0, 0, len(data), False
        wanted = _OVERHEAD
        while at + _OVERHEAD <= size:
            kind, channel, length = _FRAME.unpack_from(data, at)
            after = at + length + _OVERHEAD
            if kind not in _KINDS or (after <= size and data[after - 1] != _END):
                # aiormq finds out by itself, and ends the connection.
                self.lost_track = True
                at = size
                break
            if after > size:
                wanted = length + _OVERHEAD
                break
            if channel == self._channel and self._takes(kind, data[at + 7 : after - 1]):
                passed = self._pass(data, kept, at) or passed
                kept = after
            at = after
        passed = self._pass(data, kept, at) or passed
        if at < size:
            self._held, self._held_size, self._wanted = [data[at:]], size - at, wanted
        return passed

    def _pass(self, data: bytes, start: int, stop: int) -> bool:
        if start < stop:
            self._hand_on(data[start:stop])
        return start < stop

    def _takes(self, kind: int, payload: bytes) -> bool:
        """Whether a frame of our channel is part of a delivery, which it is then put to."""
        if kind == _METHOD:
            self._current = read_deliver(payload) if payload.startswith(DELIVER) else None
            return self._current is not None
        delivery = self._current
        if delivery is None:
            return False
        if kind == _HEADER:
            self._pieces = []
            self._missing = read_header(payload, delivery)
        elif kind == _BODY:
            self._pieces.append(payload)
            self._missing -= len(payload)
        else:
            return False
        if self._missing <= 0:
            delivery.message.body = b"".join(self._pieces)
            self._arrived.append(delivery)
            self._current = None
        return True

    def _show_life(self) -> None:
        """Let aiormq know that the peer lives, though all it sent was for us."""
        now = self._clock()
        if now - self._heartbeat_at >= HEARTBEAT_EVERY_SECONDS:
            self._heartbeat_at = now
            self._hand_on(HEARTBEAT)


class FrameReadingConnection(aio_pika.Connection):
    """A connection with a `tap`, which is None if there is no place for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tap: FrameReader | None = None
        self.kwargs.update(self._tapping())

    def _tapping(self) -> dict[str, Any]:
        """What makes aiormq open the connection through a tap, if it can."""
        known = inspect.signature(aiormq.Connection).parameters
        return {"transport_factory": _Tapping(self)} if "transport_factory" in known else {}


class _Tapping(TransportFactory):
    """Makes what aiormq would make by itself, and puts a tap in front of the reader."""

    def __init__(self, connection: FrameReadingConnection) -> None:
        self._connection = connection

    async def create(
        self, url: Any, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = url.scheme == "amqps"
        plain = TLSTransportFactory() if secure else TCPTransportFactory()
        reader, writer = await plain.create(url, **kwargs)
        tap = FrameReader(reader.feed_data, clock=asyncio.get_running_loop().time)
        # Nothing has come in yet: the server of AMQP waits to be addressed.
        reader.feed_data = tap.feed  # type: ignore[assignment]
        self._connection.tap = tap
        return reader, writer


def incompatibility(connection: Any, channel: Any) -> str | None:
    """
    What is not as it has to be for the deliveries of aiormq's *channel* to be tapped; None if all
    is. The connection has been opened, so its tap must have heard of that.
    """
    tap = getattr(connection, "tap", None)
    if tap is None:
        return "transport_factory"
    checks = {
        "feed_data": tap.heard and not tap.lost_track,
        "number": isinstance(channel.number, int) and channel.number > 0,
        "write_queue": isinstance(channel.write_queue, asyncio.Queue),
        "ChannelFrame": ChannelFrame(payload=b"", should_close=False).should_drain is False,
    }
    return next((name for name, fine in checks.items() if not fine), None)
