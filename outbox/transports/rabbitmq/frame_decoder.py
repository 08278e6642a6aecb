"""
Decoding the frames before the body of a delivery: Basic.Deliver and content header.

The publisher chooses most of these bytes, and the broker does not check all of them. Any bytes
therefore end as a delivery; illegal ones as a delivery with a `decode_error`.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from pamqp.commands import Basic

from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.table_decoder import (
    DECODE_ERRORS,
    NUMBERS,
    SECONDS_MAX,
    TEXT,
    moment,
    read_table,
)
from outbox.wire.codec import WireMessage

MALFORMED = "malformed"
DELIVER = struct.pack(">HH", Basic.frame_id, 60)
"""The first bytes of the payload of Basic.Deliver."""

_TAG = struct.Struct(">QB")
_CONTENT = struct.Struct(">xxxxQH")
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")
_MORE_FLAGS = 1
_UNREADABLE = object()


def read_deliver(data: bytes) -> Delivery | None:
    """
    Return the delivery that the payload of a Basic.Deliver announces, without its content.

    None if the payload is too short, which a publisher cannot cause: it is not a delivery.
    """
    try:
        at = 5 + data[4]
        tag, redelivered = _TAG.unpack_from(data, at)
        exchange, routing_key, decode_error = _route(data[at + _TAG.size :])
    except DECODE_ERRORS:
        return None
    message = WireMessage(exchange=exchange, routing_key=routing_key, body=b"")
    return Delivery(message, tag, redelivered & 1 == 1, decode_error)


def read_header(data: bytes, delivery: Delivery) -> int:
    """Decode a content header into *delivery*, and return the size of the body in bytes."""
    try:
        size, flags = _CONTENT.unpack_from(data, 0)
    except struct.error:
        delivery.decode_error = MALFORMED
        return 0
    if flags & _MORE_FLAGS or not _read_properties(data, flags, delivery.message):
        delivery.decode_error = MALFORMED
    return int(size)


def _read_properties(data: bytes, flags: int, message: WireMessage) -> bool:
    """Decode the properties into *message*, and return whether all were legal."""
    at, fine = _CONTENT.size, True
    try:
        for name, read in _plan(flags):
            if read is None:
                # A short text. Most properties are, so no function is called for one.
                start = at + 1
                at = start + data[at]
                if at > len(data):
                    return False
                if name is None:
                    continue
                try:
                    setattr(message, name, data[start:at].decode())
                except UnicodeDecodeError:
                    fine = False
                continue
            value, at, legal = read(data, at)
            fine = fine and legal
            if name is not None and value is not _UNREADABLE:
                setattr(message, name, value)
    except DECODE_ERRORS:
        return False
    return fine and at == len(data)


def _short_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 1
    stop = start + data[at]
    if stop > len(data):
        raise ValueError("longer than its frame")
    return data[start:stop], stop


def _octet(data: bytes, at: int) -> tuple[Any, int, bool]:
    return data[at], at + 1, True


def _table(data: bytes, at: int) -> tuple[Any, int, bool]:
    start = at + 4
    stop = start + _LONG.unpack_from(data, at)[0]
    whole = stop <= len(data)
    if whole and (plain := _plain_table(data, start, stop)) is not None:
        return MappingProxyType(plain), stop, True
    table, fine = read_table(data, start, stop if whole else len(data))
    # The properties after a cut table cannot be found; the entries that were read are kept.
    return MappingProxyType(table), stop, fine and whole


def _plain_table(data: bytes, at: int, end: int) -> dict[str, Any] | None:
    """`read_table` for legal tables of texts and numbers, inline; None for others."""
    table: dict[str, Any] = {}
    try:
        while at < end:
            start = at + 1
            at = start + data[at]
            name = data[start:at].decode()
            if data[at] == TEXT:
                start = at + 5
                at = start + _LONG.unpack_from(data, at + 1)[0]
                table[name] = data[start:at].decode()
            else:
                number = NUMBERS[data[at]]
                table[name] = number.unpack_from(data, at + 1)[0]
                at += 1 + number.size
    except DECODE_ERRORS:
        return None
    return table if at == end else None


def _timestamp(data: bytes, at: int) -> tuple[Any, int, bool]:
    number = _LONG_LONG.unpack_from(data, at)[0]
    if number <= SECONDS_MAX:
        return datetime.fromtimestamp(number, UTC), at + _LONG_LONG.size, True
    try:
        return moment(number), at + _LONG_LONG.size, True
    except DECODE_ERRORS:
        return _UNREADABLE, at + _LONG_LONG.size, False


_Reader = Callable[[bytes, int], tuple[Any, int, bool]]
_PROPERTIES: tuple[tuple[str, str | None, _Reader | None], ...] = (
    ("content_type", "content_type", None),
    ("content_encoding", "content_encoding", None),
    ("headers", "headers", _table),
    ("delivery_mode", None, _octet),
    ("priority", "priority", _octet),
    ("correlation_id", "correlation_id", None),
    ("reply_to", "reply_to", None),
    ("expiration", None, None),
    ("message_id", "message_id", None),
    ("timestamp", "timestamp", _timestamp),
    ("message_type", "type", None),
    ("user_id", None, None),
    ("app_id", None, None),
    ("cluster_id", None, None),
)
"""In their order: the names of AMQP and of a `WireMessage`, and the reader unless it is a text."""


@lru_cache(maxsize=256)
def _plan(flags: int) -> list[tuple[str | None, _Reader | None]]:
    """Return the properties that *flags* announce, in their order."""
    known = Basic.Properties.flags
    return [(name, read) for theirs, name, read in _PROPERTIES if flags & known[theirs]]


# Routes are few; with many of them the calls are not cached, and slower.
@lru_cache(maxsize=1024)
def _route(data: bytes) -> tuple[str, str, str | None]:
    """Return exchange, routing key and, if one is not text, a reason code."""
    exchange, at = _short_bytes(data, 0)
    routing_key, _ = _short_bytes(data, at)
    try:
        return exchange.decode(), routing_key.decode(), None
    except UnicodeDecodeError:
        return exchange.decode(errors="replace"), routing_key.decode(errors="replace"), MALFORMED
