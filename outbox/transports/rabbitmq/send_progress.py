"""
How many bytes of a connection the broker's host has not yet received.

A publish has a deadline for the answer, and a slow network needs longer than that for a large
batch. While the number of these bytes changes, the broker is still receiving and cannot answer.
"""

import asyncio
import fcntl
import inspect
import struct
import termios
from typing import Any

import aio_pika
import aiormq
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory


class SendMeter(TransportFactory):
    """Creates the streams that aiormq would create, and remembers the writer."""

    def __init__(self) -> None:
        self._transport: Any = None

    async def create(
        self, url: Any, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        plain = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await plain.create(url, **kwargs)
        self._transport = writer.transport
        return reader, writer

    def unsent(self) -> int:
        """The bytes in this process and in its kernel that the peer has not acknowledged."""
        if self._transport is None or self._transport.is_closing():
            return 0
        return int(self._transport.get_write_buffer_size()) + self._in_kernel()

    def _in_kernel(self) -> int:
        raw = self._transport.get_extra_info("socket")
        try:
            answer = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError, AttributeError):
            return 0  # some platforms do not tell
        return int(struct.unpack("i", answer)[0])


class MeteredConnection(aio_pika.Connection):
    """A connection whose `unsent_bytes` are known, if aiormq accepts a transport factory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "transport_factory" in inspect.signature(aiormq.Connection).parameters:
            self.kwargs["transport_factory"] = SendMeter()


def unsent_bytes(connection: Any) -> int:
    """Return the unsent bytes of aiormq's *connection*, or 0 if they are not known."""
    meter = getattr(connection, "_transport_factory", None)
    return meter.unsent() if isinstance(meter, SendMeter) else 0
