"""
The frames of the messages that relays publish most, each filled into a layout.

`frame_encoder` writes the properties of a message one by one. Here all bytes that messages of one
kind share are prepared once, and one call packs them with the values of a message. A message that
is less common, in any property, is left to `frame_encoder`; the bytes are the same.
"""

import struct
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from outbox.tracing import TRACEPARENT
from outbox.transports.rabbitmq.frame_encoder import (
    BASIC,
    BODY,
    BODY_FRAME,
    END,
    HEADER,
    HEADER_FIXED,
    HEADER_FRAME,
    LONG,
    LONG_LONG,
    MESSAGE_ID,
    OCTETS,
    TIMESTAMP,
    common_properties,
    header_name,
    integer,
    method_frame,
    publish_frames,
)
from outbox.wire.codec import WireMessage
from outbox.wire.headers import (
    EPOCH,
    IDEMPOTENCY_KEY_HEADER,
    OCCURRED_AT_HEADER,
    RECORDED_AT_HEADER,
    SECONDS_OF_A_DAY,
    VERSION,
    VERSION_HEADER,
)

_HEADERS = (VERSION_HEADER, IDEMPOTENCY_KEY_HEADER, OCCURRED_AT_HEADER, RECORDED_AT_HEADER)
"""In the order in which `outbox.wire.row_message` makes them."""
_TRACED_HEADERS = (TRACEPARENT, *_HEADERS)
"""Those of an event whose producer is traced."""
_TIME_CHARACTERS, _ID_CHARACTERS, _PARENT_CHARACTERS = 32, 36, 55
_FIRST_LONG, _END_OF_LONG = 2**16, 2**31
"""Between them, integers have four bytes and the same sign."""
_OCCURRED_AT_LABEL = header_name(OCCURRED_AT_HEADER) + b"S" + LONG.pack(_TIME_CHARACTERS)
_RECORDED_AT_LABEL = header_name(RECORDED_AT_HEADER) + b"I"
_PARENT_LABEL = header_name(TRACEPARENT) + b"S" + LONG.pack(_PARENT_CHARACTERS)
_SIZE_OFFSET = 11
"""Bytes of a header frame before the size of the body."""


def message_frames(message: WireMessage, *, channel: int, body_max: int) -> list[bytes]:
    """Like `frame_encoder.publish_frames`."""
    body = message.body
    if type(body) is bytes and 0 < (size := len(body)) <= body_max:
        head = _head_of(message, channel, size)
        if head is not None:
            return [head, body, END]
    return publish_frames(message, channel=channel, body_max=body_max)


def _head_of(message: WireMessage, channel: int, size: int) -> bytes | None:
    """
    Return the bytes before a body of *size* bytes, or None if *message* is not common enough.

    A common one has the four headers of the wire format, at most a traceparent besides, no
    correlation id and no queue for replies.
    """
    headers, message_id, timestamp = message.headers, message.message_id, message.timestamp
    names, parent = tuple(headers), b""
    if names == _HEADERS:
        version, key, occurred_at, recorded_at = headers.values()
    elif names == _TRACED_HEADERS:
        text, version, key, occurred_at, recorded_at = headers.values()
        if type(text) is not str or not text.isascii() or len(text) != _PARENT_CHARACTERS:
            return None
        parent = text.encode()
    else:
        return None
    # The types are exact, and a text has as many bytes as characters: a layout would cut or fill
    # others without an error.
    if (
        type(key) is type(occurred_at) is type(message_id) is str
        and type(version) is type(recorded_at) is int
        and type(timestamp) is datetime
        and version == VERSION
        and len(occurred_at) == _TIME_CHARACTERS
        and len(message_id) == _ID_CHARACTERS
        and _FIRST_LONG <= recorded_at < _END_OF_LONG
        and key.isascii()
        and occurred_at.isascii()
        and message_id.isascii()
        and timestamp.tzinfo is not None
        and not message.correlation_id
        and not message.reply_to
    ):
        fill, start, table, key_label, middle, last = _layout(
            *(channel, message.exchange, message.routing_key, len(key), message.type),
            *(message.content_type, message.content_encoding, message.priority, len(parent)),
        )
        if parent:
            table = b"".join((table, parent, key_label))
        since = timestamp - EPOCH
        return fill(
            *(start, size, table, key.encode(), _OCCURRED_AT_LABEL, occurred_at.encode()),
            *(_RECORDED_AT_LABEL, recorded_at, middle, message_id.encode()),
            *(since.days * SECONDS_OF_A_DAY + since.seconds, last, size),
        )
    return None


class _Layout(NamedTuple):
    """
    What common messages of one kind share, with keys of one length.

    Args:
        fill: Packs the parts and the values between them.
        start: Up to the size of the body.
        table: Up to the idempotency key; with a traceparent, up to that.
        key_label: Between the traceparent and the idempotency key; empty without a traceparent.
        middle: Between the time of recording and the message id.
        last: Between the timestamp and the size of the body's frame.

    """

    fill: Callable[..., bytes]
    start: bytes
    table: bytes
    key_label: bytes
    middle: bytes
    last: bytes


@lru_cache(maxsize=4096)
def _layout(  # noqa: PLR0917 - by name it would be cached at a higher cost
    channel: int,
    exchange: str,
    routing_key: str,
    key_size: int,
    kind: str | None,
    content_type: str | None,
    content_encoding: str | None,
    priority: int | None,
    parent_size: int,
) -> _Layout:
    common = common_properties(content_type, content_encoding, priority, kind)
    key_label = header_name(IDEMPOTENCY_KEY_HEADER) + b"S" + LONG.pack(key_size)
    # In the order of their names, as `_table` writes them.
    rest = header_name(VERSION_HEADER) + integer(VERSION)
    parent_label = _PARENT_LABEL if parent_size else b""
    table_size = (
        *(len(parent_label), parent_size, len(key_label), key_size),
        *(len(_OCCURRED_AT_LABEL), _TIME_CHARACTERS),
        *(len(_RECORDED_AT_LABEL), LONG.size, len(rest)),
    )
    own_size = 1 + _ID_CHARACTERS + LONG_LONG.size
    properties_size = common.size + LONG.size + sum(table_size) + own_size
    header = HEADER_FRAME.pack(
        *(HEADER, channel, HEADER_FIXED + properties_size, BASIC, 0),
        common.flags | MESSAGE_ID | TIMESTAMP,
    )
    body_size = slice(_SIZE_OFFSET, _SIZE_OFFSET + LONG_LONG.size)
    start = method_frame(channel, exchange, routing_key) + header[: body_size.start]
    table = header[body_size.stop :] + common.first + LONG.pack(sum(table_size)) + parent_label
    if not parent_size:
        table, key_label = table + key_label, b""
    before_key = len(table) + parent_size + len(key_label)
    middle = rest + common.middle + OCTETS[_ID_CHARACTERS]
    last = common.last + BODY_FRAME.pack(BODY, channel, 0)[: -LONG.size]
    layout = struct.Struct(
        f">{len(start)}sQ{before_key}s{key_size}s{len(_OCCURRED_AT_LABEL)}s{_TIME_CHARACTERS}s"
        f"{len(_RECORDED_AT_LABEL)}sI{len(middle)}s{_ID_CHARACTERS}sQ{len(last)}sI"
    )
    return _Layout(layout.pack, start, table, key_label, middle, last)
