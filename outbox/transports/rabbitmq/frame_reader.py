"""
Cutting deliveries out of the bytes of a connection before aiormq reads them.

aiormq creates several objects for each frame, and a task for each delivery. Worse, a message that
it cannot decode ends the connection, and the broker delivers it again to the next one. Here the
frames of deliveries are cut out of the stream and decoded by `frame_decoder`; all others go to
aiormq unchanged and in order. aiormq keeps handshake, TLS, heartbeats and channels.

This uses fewer internals than it replaces; `incompatibility` checks them all:

- aiormq's Connection takes a `transport_factory`, which creates its StreamReader.
- asyncio passes all received bytes to the reader's `feed_data`, which may be replaced.
- aiormq closes a connection on which no frame arrives for long. RabbitMQ sends no heartbeat while
  it sends deliveries, so the reader sometimes passes a heartbeat to aiormq in their place.
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
"""Shorter than any heartbeat interval, and long enough to cost no time."""

_FRAME = struct.Struct(">BHI")
_OVERHEAD = 8
_METHOD, _HEADER, _BODY = 1, 2, 3
_KINDS = frozenset({_METHOD, _HEADER, _BODY, HEARTBEAT[0]})
_END = HEARTBEAT[-1]
_NO_CHANNEL = -1


class FrameReader:
    """
    Splits the received bytes into deliveries of one channel and all other frames.

    Args:
        forward: Called with all other frames.
        clock: Seconds of any monotonic clock.

    """

    def __init__(self, forward: Callable[[bytes], None], *, clock: Callable[[], float]) -> None:
        self._forward = forward
        self._clock = clock
        self._heartbeat_at = 0.0
        self._channel = _NO_CHANNEL
        self._deliver: Callable[[list[Delivery]], None] = lambda _: None
        # The beginning of an incomplete frame, and the size that it has at least.
        self._held: list[bytes] = []
        self._held_size = 0
        self._held_until = 0
        # The delivery whose content is being received, and the missing bytes of its body.
        self._current: Delivery | None = None
        self._pieces: list[bytes] = []
        self._missing = 0
        self._arrived: list[Delivery] = []
        self.received = False
        """Whether any bytes were received."""
        self.out_of_sync = False
        """Whether bytes were not a frame; since then all bytes are forwarded."""

    def follow(self, channel: int, deliver: Callable[[list[Delivery]], None]) -> None:
        """Call *deliver* with the deliveries of *channel* from now on."""
        self._channel = channel
        self._deliver = deliver

    def feed(self, chunk: bytes) -> None:
        """Process received bytes; never raises for their content."""
        self.received = True
        if self.out_of_sync:
            self._forward(chunk)
            return
        data = self._whole(bytes(chunk))
        passed = self._split(data) if data else False
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            self._deliver(arrived)
        if not passed:
            self._forward_heartbeat()

    def _whole(self, chunk: bytes) -> bytes:
        """Return the held bytes and *chunk*, or no bytes if the frame is still incomplete."""
        if not self._held:
            return chunk
        self._held.append(chunk)
        self._held_size += len(chunk)
        if self._held_size < self._held_until:
            return b""
        data = b"".join(self._held)
        self._held = []
        return data

    def _split(self, data: bytes) -> bool:
        """Process the frames of *data*, hold the rest, and return whether any was forwarded."""
        # `kept` is the start of the frames that are not forwarded yet.
        at, kept, size, passed = 0, 0, len(data), False
        wanted = _OVERHEAD
        while at + _OVERHEAD <= size:
            kind, channel, length = _FRAME.unpack_from(data, at)
            after = at + length + _OVERHEAD
            if kind not in _KINDS or (after <= size and data[after - 1] != _END):
                # aiormq detects it too, and ends the connection.
                self.out_of_sync = True
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
            self._held, self._held_size, self._held_until = [data[at:]], size - at, wanted
        return passed

    def _pass(self, data: bytes, start: int, stop: int) -> bool:
        if start < stop:
            self._forward(data[start:stop])
        return start < stop

    def _takes(self, kind: int, payload: bytes) -> bool:
        """Add a frame of our channel to the current delivery; return whether it belongs to one."""
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

    def _forward_heartbeat(self) -> None:
        """Show aiormq that the peer is alive, although all its frames were deliveries."""
        now = self._clock()
        if now - self._heartbeat_at >= HEARTBEAT_EVERY_SECONDS:
            self._heartbeat_at = now
            self._forward(HEARTBEAT)


class FrameReadingConnection(aio_pika.Connection):
    """A connection with a `frame_reader`, which is None if aiormq is not compatible."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame_reader: FrameReader | None = None
        self.kwargs.update(self._reader_arguments())

    def _reader_arguments(self) -> dict[str, Any]:
        """Return the argument with which aiormq opens the connection through a FrameReader."""
        known = inspect.signature(aiormq.Connection).parameters
        return (
            {"transport_factory": _FrameReaderFactory(self)}
            if "transport_factory" in known
            else {}
        )


class _FrameReaderFactory(TransportFactory):
    """Creates the streams that aiormq would create, and puts a FrameReader before its reader."""

    def __init__(self, connection: FrameReadingConnection) -> None:
        self._connection = connection

    async def create(
        self, url: Any, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = url.scheme == "amqps"
        plain = TLSTransportFactory() if secure else TCPTransportFactory()
        reader, writer = await plain.create(url, **kwargs)
        frame_reader = FrameReader(reader.feed_data, clock=asyncio.get_running_loop().time)
        # No byte was received yet: in AMQP the client speaks first.
        reader.feed_data = frame_reader.feed  # type: ignore[assignment]
        self._connection.frame_reader = frame_reader
        return reader, writer


def incompatibility(connection: Any, channel: Any) -> str | None:
    """
    Return an internal of aiormq that FrameReader needs and *channel* lacks, or None.

    The connection is open, so its frame reader must have received bytes.
    """
    frame_reader = getattr(connection, "frame_reader", None)
    if frame_reader is None:
        return "transport_factory"
    checks = {
        "feed_data": frame_reader.received and not frame_reader.out_of_sync,
        "number": isinstance(channel.number, int) and channel.number > 0,
        "write_queue": isinstance(channel.write_queue, asyncio.Queue),
        "ChannelFrame": ChannelFrame(payload=b"", should_close=False).should_drain is False,
    }
    return next((name for name, fine in checks.items() if not fine), None)
