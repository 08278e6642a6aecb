"""
A message as the bytes of its AMQP frames: Basic.Publish, content header, content bodies.

pamqp produces the same bytes at several times the cost, because it looks up the type of each field
for each message. Here the layout of this project's messages is fixed. pamqp encodes the rare
parts: the method frame of a route that is not cached, and header values other than text, integers
and booleans.

A value that cannot be encoded raises the same error as in pamqp: TypeError, ValueError or
struct.error.
"""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pamqp.frame
from pamqp import encode
from pamqp.commands import Basic

from outbox.wire.codec import APP_ID, WireMessage

FRAME_OVERHEAD = 8
"""Size of a frame without its payload, in bytes."""

_HEADER, _BODY = 2, 3
_END = b"\xce"
_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HxxQH")
_LONG = struct.Struct(">I")
_LONG_TEXT = struct.Struct(">cI")
_LONG_LONG = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_OF_A_DAY = 86_400
_BASIC = Basic.frame_id
_PERSISTENT = b"\x02"
_SHORT_MAX = 255
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


def publish_frames(message: WireMessage, *, channel: int, body_max: int) -> bytes:
    """
    Return the frames that publish *message*, mandatory and persistent, on *channel*.

    *body_max* is the number of body bytes in one frame: the connection's frame size minus
    FRAME_OVERHEAD.
    """
    body = message.body
    size = len(body)
    flags, properties = _properties(message)
    properties_size = 14 + sum(map(len, properties))
    parts = [
        _method_frame(channel, message.exchange, message.routing_key),
        _FRAME.pack(_HEADER, channel, properties_size),
        _CONTENT.pack(_BASIC, size, flags),
        *properties,
        _END,
    ]
    if size <= body_max:
        if size:
            parts += (_FRAME.pack(_BODY, channel, size), body, _END)
    else:
        for start in range(0, size, body_max):
            piece = body[start : start + body_max]
            parts += (_FRAME.pack(_BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def _properties(message: WireMessage) -> tuple[int, list[bytes]]:
    """Return the flags of the properties that are set, and these properties in their order."""
    flags = _ALWAYS
    parts: list[bytes] = []
    if message.content_type:
        flags |= _CONTENT_TYPE
        parts.append(_common(message.content_type))
    if message.content_encoding:
        flags |= _CONTENT_ENCODING
        parts.append(_common(message.content_encoding))
    parts += (_table(message.headers), _PERSISTENT)
    if message.priority is not None:
        flags |= _PRIORITY
        parts.append(_octet(message.priority))
    if message.correlation_id:
        flags |= _CORRELATION_ID
        parts.append(_short(message.correlation_id))
    if message.message_id:
        flags |= _MESSAGE_ID
        parts.append(_short(message.message_id))
    if message.timestamp is not None:
        flags |= _TIMESTAMP
        parts.append(_timestamp(message.timestamp))
    if message.type:
        flags |= _TYPE
        parts.append(_common(message.type))
    parts.append(_APP_ID)
    return flags, parts


def _table(headers: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    for name, label in _labels(tuple(headers)):
        value = headers[name]
        kind = type(value)
        if kind is str:
            data = value.encode()
            parts += (label, _LONG_TEXT.pack(b"S", len(data)), data)
        elif kind is int:
            parts += (label, _integer(value))
        elif kind is bool:
            parts += (label, b"t\x01" if value else b"t\x00")
        else:
            parts += (label, encode.encode_table_value(value))
    table = b"".join(parts)
    return _LONG.pack(len(table)) + table


def _timestamp(moment: datetime) -> bytes:
    if type(moment) is not datetime or moment.tzinfo is None:
        return encode.timestamp(moment)
    since = moment - _EPOCH
    return _LONG_LONG.pack(since.days * _SECONDS_OF_A_DAY + since.seconds)


# Mostly the version of the wire format.
@lru_cache(maxsize=256)
def _integer(value: int) -> bytes:
    for low, high, layout, kind in _INTEGERS:
        if low <= value < high:
            return layout.pack(kind, value)
    raise TypeError("integer of more than 64 bits")


def _short(text: str) -> bytes:
    data = str.encode(text)
    if len(data) > _SHORT_MAX:
        raise TypeError("text of more than 255 bytes")
    return len(data).to_bytes(1, "big") + data


_octet = lru_cache(maxsize=256)(encode.octet)

# Types and sets of headers are few; with many of them the calls are not cached, and slower.
_common = lru_cache(maxsize=1024)(_short)
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
