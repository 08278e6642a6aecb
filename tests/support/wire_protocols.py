"""
What clients and servers say to each other, message by message, and how to recognise it. No I/O.

Only as much of the protocols of Postgres and RabbitMQ as it takes to find the point at which
something is to happen; a connection with TLS says nothing that could be recognised.
"""

import struct
from collections.abc import Callable, Iterator

from pamqp.base import Frame
from pamqp.commands import Basic

Measure = Callable[[bytes], int | None]
"""The size of the first message of some bytes; None if they do not tell yet."""

Sign = Callable[[bytes], bool]
"""Whether a message, spelt out, is the one that is meant."""

_METHOD_FRAME = 1


class Splitter:
    """Cuts a stream into messages, however it comes in."""

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
    """Of what a client says. The first messages have no type, and a length below 2**24."""
    has_type = data[:1] > b"\0"
    if len(data) < has_type + 4:
        return None
    size: int = struct.unpack_from(">I", data, has_type)[0]
    return has_type + size


def size_of_amqp(data: bytes) -> int | None:
    """Of what either side says: a protocol header, and frames."""
    if data[:1] == b"A":
        return len(b"AMQP\0\0\x09\x01")
    if len(data) < 7:
        return None
    size: int = struct.unpack_from(">I", data, 3)[0]
    return 7 + size + 1


def size_of_anything(data: bytes) -> int | None:
    """Of what is not looked at: as it comes."""
    return len(data) or None


class Statements:
    """Knows what a client of Postgres has prepared, and so what it executes."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, bytes] = {}

    def spelt_out(self, message: bytes) -> bytes:
        """*message*, but one that executes what was prepared as if the text was in it."""
        match message[:1]:
            case b"P":
                name, text, *_ = message[5:].split(b"\0")
                self._prepared[name] = text
            case b"B":
                _portal, name, *_ = message[5:].split(b"\0", 2)
                text = self._prepared.get(name, b"")
                return b"Q" + struct.pack(">I", 5 + len(text)) + text + b"\0"
        return message


def statement(text: str) -> Sign:
    """The execution of a statement with *text* in it."""
    return lambda message: message[:1] == b"Q" and text.encode() in message


def method(kind: type[Frame]) -> Sign:
    """A method of AMQP."""
    index = struct.pack(">I", kind.index)
    return lambda message: message[:1] == bytes([_METHOD_FRAME]) and message[7:11] == index


BEGIN = statement("BEGIN")
COMMIT = statement("COMMIT")
PUBLISH = method(Basic.Publish)
DELIVER = method(Basic.Deliver)
RETURN = method(Basic.Return)
ACK = method(Basic.Ack)
"""From a client it settles a delivery, from the broker it confirms a publish."""
