"""
A message as the bytes of its AMQP frames: Basic.Publish, content header, content bodies.

pamqp produces the same bytes at several times the cost, because it looks up the type of each field
for each message. Here the layout of this project's messages is fixed, and what many messages have
in common is encoded once. pamqp encodes the rare parts: the method frame of a route that is not
cached, and header values other than text, integers and booleans.

A value that cannot be encoded raises the same error as in pamqp: TypeError, ValueError or
struct.error.
"""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import pamqp.frame
from pamqp import encode
from pamqp.commands import Basic

from outbox.wire.codec import APP_ID, WireMessage

FRAME_OVERHEAD = 8
"""Size of a frame without its payload, in bytes."""

_HEADER, _BODY = 2, 3
_END = b"\xce"
_BODY_FRAME = struct.Struct(">BHI")
_HEADER_FRAME = struct.Struct(">BHIHxxQH")
"""Kind, channel and size of the frame; class, size of the body, flags of the properties."""
_HEADER_FIXED = 14
"""Bytes in the payload of a content header before the properties."""
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_OF_A_DAY = 86_400
_BASIC = Basic.frame_id
_PERSISTENT = b"\x02"
_OCTETS = [bytes([number]) for number in range(256)]
_NAME_MAX = 128
_INTEGERS = (
    (-(2**7), 2**7, struct.Struct(">cb"), b"b"),
    (-(2**15), 2**15, struct.Struct(">ch"), b"s"),
    (0, 2**16, struct.Struct(">cH"), b"u"),
    (-(2**31), 2**31, struct.Struct(">ci"), b"I"),
    (0, 2**32, struct.Struct(">cI"), b"i"),
    (-(2**63), 2**63, struct.Struct(">cq"), b"l"),
)

_FLAGS = Basic.Properties.flags
_CONTENT_TYPE = _FLAGS["content_type"]
_CONTENT_ENCODING = _FLAGS["content_encoding"]
_PRIORITY = _FLAGS["priority"]
_CORRELATION_ID = _FLAGS["correlation_id"]
_MESSAGE_ID = _FLAGS["message_id"]
_TIMESTAMP = _FLAGS["timestamp"]
_TYPE = _FLAGS["message_type"]
_ALWAYS = _FLAGS["headers"] | _FLAGS["delivery_mode"] | _FLAGS["app_id"]


def publish_frames(message: WireMessage, *, channel: int, body_max: int) -> list[bytes]:
    """
    Return the frames that publish *message*, mandatory and persistent, on *channel*, in pieces.

    *body_max* is the number of body bytes in one frame: the connection's frame size minus
    FRAME_OVERHEAD. The caller joins the pieces of a whole batch, so that a body is copied once.
    """
    body = message.body
    if type(body) is not bytes:
        body = bytes(memoryview(body))
    size = len(body)
    common = _common(
        message.content_type, message.content_encoding, message.priority, message.type
    )
    flags, table, own = common.flags, _table(message.headers), b""
    if message.correlation_id:
        flags |= _CORRELATION_ID
        own = _short(message.correlation_id)
    if message.message_id:
        flags |= _MESSAGE_ID
        own += _short(message.message_id)
    if message.timestamp is not None:
        flags |= _TIMESTAMP
        own += _timestamp(message.timestamp)
    properties_size = common.size + len(table) + len(own)
    pieces = [
        _method_frame(channel, message.exchange, message.routing_key),
        _HEADER_FRAME.pack(_HEADER, channel, _HEADER_FIXED + properties_size, _BASIC, size, flags),
        common.first,
        table,
        common.middle,
        own,
        common.last,
    ]
    if size <= body_max:
        if size:
            pieces += (_BODY_FRAME.pack(_BODY, channel, size), body, _END)
    else:
        for start in range(0, size, body_max):
            piece = body[start : start + body_max]
            pieces += (_BODY_FRAME.pack(_BODY, channel, len(piece)), piece, _END)
    return pieces


class _Common(NamedTuple):
    """
    Properties that many messages share, between those that each message has of its own.

    Args:
        flags: Those of the shared properties.
        size: Their bytes.
        first: The properties before the headers.
        middle: Those between the headers and the correlation id.
        last: Those after the timestamp, and the end of the frame.

    """

    flags: int
    size: int
    first: bytes
    middle: bytes
    last: bytes


# Types, priorities and encodings are few; with many of them the call is not cached, and slower.
@lru_cache(maxsize=1024)
def _common(
    content_type: str | None, content_encoding: str | None, priority: int | None, kind: str | None
) -> _Common:
    flags, first, middle, last = _ALWAYS, b"", _PERSISTENT, _APP_ID
    if content_type:
        flags |= _CONTENT_TYPE
        first = _short(content_type)
    if content_encoding:
        flags |= _CONTENT_ENCODING
        first += _short(content_encoding)
    if priority is not None:
        flags |= _PRIORITY
        middle += encode.octet(priority)
    if kind:
        flags |= _TYPE
        last = _short(kind) + last
    return _Common(flags, len(first) + len(middle) + len(last), first, middle, last + _END)


def _table(headers: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name, label in _labels(tuple(headers)):
        value = headers[name]
        kind = type(value)
        if kind is str:
            data = value.encode()
            pieces += (label, b"S", _LONG.pack(len(data)), data)
        elif kind is int:
            pieces += (label, _integer(value))
        elif kind is bool:
            pieces += (label, b"t\x01" if value else b"t\x00")
        else:
            pieces += (label, encode.encode_table_value(value))
    table = b"".join(pieces)
    return _LONG.pack(len(table)) + table


def _timestamp(moment: datetime) -> bytes:
    if type(moment) is not datetime or moment.tzinfo is None:
        return encode.timestamp(moment)
    since = moment - _EPOCH
    return _LONG_LONG.pack(since.days * _SECONDS_OF_A_DAY + since.seconds)


# Mostly the version of the wire format, and the second in which many rows were inserted.
@lru_cache(maxsize=256)
def _integer(value: int) -> bytes:
    for low, high, layout, kind in _INTEGERS:
        if low <= value < high:
            return layout.pack(kind, value)
    raise TypeError("integer of more than 64 bits")


def _short(text: str) -> bytes:
    data = str.encode(text)
    try:
        return _OCTETS[len(data)] + data
    except IndexError:
        raise TypeError("text of more than 255 bytes") from None


_APP_ID = _short(APP_ID)


@lru_cache(maxsize=256)
def _labels(names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return header *names* in the order in which they are written, each with its bytes."""
    return [(name, _name(name)) for name in sorted(names)]


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    """Encode the name of a header, cut at 128 bytes as pamqp does."""
    data = str.encode(name)
    return _short(data[:_NAME_MAX].decode(errors="ignore"))


@lru_cache(maxsize=1024)
def _method_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    publish = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return pamqp.frame.marshal(publish, channel)
