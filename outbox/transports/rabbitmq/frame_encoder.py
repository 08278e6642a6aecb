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
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import pamqp.frame
from pamqp import encode
from pamqp.commands import Basic

from outbox.wire.codec import APP_ID, WireMessage
from outbox.wire.headers import EPOCH, SECONDS_OF_A_DAY

FRAME_OVERHEAD = 8
"""Size of a frame without its payload, in bytes."""

HEADER, BODY = 2, 3
END = b"\xce"
BODY_FRAME = struct.Struct(">BHI")
HEADER_FRAME = struct.Struct(">BHIHxxQH")
"""Kind, channel and size of the frame; class, size of the body, flags of the properties."""
HEADER_FIXED = 14
"""Bytes in the payload of a content header before the properties."""
LONG = struct.Struct(">I")
LONG_LONG = struct.Struct(">Q")
BASIC = Basic.frame_id
_PERSISTENT = b"\x02"
OCTETS = [bytes([number]) for number in range(256)]
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
_REPLY_TO = _FLAGS["reply_to"]
MESSAGE_ID = _FLAGS["message_id"]
TIMESTAMP = _FLAGS["timestamp"]
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
    common = common_properties(
        message.content_type, message.content_encoding, message.priority, message.type
    )
    flags, table, own = common.flags, _table(message.headers), b""
    for flag, text in (
        (_CORRELATION_ID, message.correlation_id),
        (_REPLY_TO, message.reply_to),
        (MESSAGE_ID, message.message_id),
    ):
        if text:
            flags |= flag
            own += _short(text)
    if message.timestamp is not None:
        flags |= TIMESTAMP
        own += _timestamp(message.timestamp)
    properties_size = common.size + len(table) + len(own)
    pieces = [
        method_frame(channel, message.exchange, message.routing_key),
        HEADER_FRAME.pack(HEADER, channel, HEADER_FIXED + properties_size, BASIC, size, flags),
        common.first,
        table,
        common.middle,
        own,
        common.last,
    ]
    if size <= body_max:
        if size:
            pieces += (BODY_FRAME.pack(BODY, channel, size), body, END)
    else:
        for start in range(0, size, body_max):
            piece = body[start : start + body_max]
            pieces += (BODY_FRAME.pack(BODY, channel, len(piece)), piece, END)
    return pieces


class CommonProperties(NamedTuple):
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
def common_properties(
    content_type: str | None, content_encoding: str | None, priority: int | None, kind: str | None
) -> CommonProperties:
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
    return CommonProperties(flags, len(first) + len(middle) + len(last), first, middle, last + END)


def _table(headers: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name, label in _labels(tuple(headers)):
        value = headers[name]
        kind = type(value)
        if kind is str:
            data = value.encode()
            pieces += (label, b"S", LONG.pack(len(data)), data)
        elif kind is int:
            pieces += (label, integer(value))
        elif kind is bool:
            pieces += (label, b"t\x01" if value else b"t\x00")
        else:
            pieces += (label, encode.encode_table_value(value))
    table = b"".join(pieces)
    return LONG.pack(len(table)) + table


def _timestamp(moment: datetime) -> bytes:
    if type(moment) is not datetime or moment.tzinfo is None:
        return encode.timestamp(moment)
    since = moment - EPOCH
    return LONG_LONG.pack(since.days * SECONDS_OF_A_DAY + since.seconds)


# Mostly the version of the wire format, and the second in which many rows were inserted.
@lru_cache(maxsize=256)
def integer(value: int) -> bytes:
    for low, high, layout, kind in _INTEGERS:
        if low <= value < high:
            return layout.pack(kind, value)
    raise TypeError("integer of more than 64 bits")


def _short(text: str) -> bytes:
    data = str.encode(text)
    try:
        return OCTETS[len(data)] + data
    except IndexError:
        raise TypeError("text of more than 255 bytes") from None


_APP_ID = _short(APP_ID)


@lru_cache(maxsize=256)
def _labels(names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return header *names* in the order in which they are written, each with its bytes."""
    return [(name, header_name(name)) for name in sorted(names)]


@lru_cache(maxsize=1024)
def header_name(name: str) -> bytes:
    """Encode the name of a header, cut at 128 bytes as pamqp does."""
    data = str.encode(name)
    return _short(data[:_NAME_MAX].decode(errors="ignore"))


@lru_cache(maxsize=1024)
def method_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    publish = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return pamqp.frame.marshal(publish, channel)
