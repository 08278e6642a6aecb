"""
Splits the streams of Postgres and RabbitMQ into messages, and recognises some of them. No I/O.

It knows only the part of both protocols that breakpoints need. It cannot read a TLS connection.
"""

import struct
from collections.abc import Callable, Iterator

from pamqp.base import Frame
from pamqp.commands import Basic

Measure = Callable[[bytes], int | None]
"""The size of the first message in some bytes; None if more bytes are needed."""

Matcher = Callable[[bytes], bool]
"""Whether a message, with its prepared statement resolved, is the wanted one."""

_METHOD_FRAME = 1


class Splitter:
    """Splits a stream into messages, in any chunks."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that *data* completes."""
        self._rest += data
        while (size := self._measure(self._rest)) is not None and size <= len(self._rest):
            message, self._rest = self._rest[:size], self._rest[size:]
            yield message


def size_for_postgres(data: bytes) -> int | None:
    """For messages of a client. The first ones have no type, and a length below 2**24."""
    has_type = data[:1] > b"\0"
    if len(data) < has_type + 4:
        return None
    size: int = struct.unpack_from(">I", data, has_type)[0]
    return has_type + size


def size_of_amqp(data: bytes) -> int | None:
    """For messages of either side: a protocol header, and frames."""
    if data[:1] == b"A":
        return len(b"AMQP\0\0\x09\x01")
    if len(data) < 7:
        return None
    size: int = struct.unpack_from(">I", data, 3)[0]
    return 7 + size + 1


def size_of_anything(data: bytes) -> int | None:
    """For data that is not parsed: each chunk is one message."""
    return len(data) or None


class Statements:
    """Remembers the prepared statements of a client of Postgres."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, bytes] = {}

    def resolved(self, message: bytes) -> bytes:
        """*message*; a Bind message becomes a Query with the text of its prepared statement."""
        match message[:1]:
            case b"P":
                name, text, *_ = message[5:].split(b"\0")
                self._prepared[name] = text
            case b"B":
                _portal, name, *_ = message[5:].split(b"\0", 2)
                text = self._prepared.get(name, b"")
                return b"Q" + struct.pack(">I", 5 + len(text)) + text + b"\0"
        return message


def statement(text: str) -> Matcher:
    """Matches the execution of a statement with *text* in it."""
    return lambda message: message[:1] == b"Q" and text.encode() in message


def method(kind: type[Frame]) -> Matcher:
    """Matches an AMQP method."""
    index = struct.pack(">I", kind.index)
    return lambda message: message[:1] == bytes([_METHOD_FRAME]) and message[7:11] == index


BEGIN = statement("BEGIN")
COMMIT = statement("COMMIT")
PUBLISH = method(Basic.Publish)
DELIVER = method(Basic.Deliver)
RETURN = method(Basic.Return)
ACK = method(Basic.Ack)
"""From a client it settles a delivery, from the broker it confirms a publish."""
