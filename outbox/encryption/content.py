"""
The content of an encrypted body: private fields of the event, and its body. Pure.

    size  field
    4     p, the length of the private fields, big-endian; 0 if there are none
    p     a JSON object: `correlation_id` (a string) and `headers` (an object), each if it is there
    rest  the body of the event

A reader takes no headers from outside the content but PUBLIC_HEADERS: any publisher could write
them.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from outbox.errors import InvalidEvent, UnreadableMessage
from outbox.payload import MAX_BODY_BYTES
from outbox.tracing import TRACEPARENT, TRACESTATE
from outbox.wire.headers import event_headers

PUBLIC_HEADERS = frozenset({TRACEPARENT, TRACESTATE})
"""The headers of an event that stay outside the content."""
MAX_PRIVATE_BYTES = 65_536
"""As many as the table allows for headers of an event that is not encrypted."""

_LENGTH_BYTES = 4
_NOTHING = bytes(_LENGTH_BYTES)
MAX_BYTES = _LENGTH_BYTES + MAX_PRIVATE_BYTES + MAX_BODY_BYTES
"""The largest content, before compression."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Content(NamedTuple):
    """The *body* of an event, and what else of it is private."""

    body: bytes
    correlation_id: str | None
    headers: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Content({len(self.body)} bytes)"


def pack(content: Content) -> bytes:
    """The bytes of *content*; raises InvalidEvent if its private fields are too large."""
    fields: dict[str, Any] = {}
    if content.correlation_id is not None:
        fields["correlation_id"] = content.correlation_id
    if content.headers:
        fields["headers"] = dict(content.headers)
    if not fields:
        return _NOTHING + content.body
    private = _encode(fields).encode()
    if len(private) > MAX_PRIVATE_BYTES:
        raise InvalidEvent("headers", f"are larger than {MAX_PRIVATE_BYTES} bytes in all")
    return b"".join((len(private).to_bytes(_LENGTH_BYTES), private, content.body))


def unpack(data: bytes) -> Content:
    """The content in *data*; raises UnreadableMessage with the code `malformed`."""
    if data.startswith(_NOTHING):
        return Content(data[_LENGTH_BYTES:], None, {})
    size = int.from_bytes(data[:_LENGTH_BYTES])
    end = _LENGTH_BYTES + size
    if size > MAX_PRIVATE_BYTES or end > len(data):
        raise UnreadableMessage("malformed", "private fields")
    try:
        fields = json.loads(data[_LENGTH_BYTES:end].decode())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UnreadableMessage("malformed", "private fields")
    correlation_id, headers = fields.get("correlation_id"), fields.get("headers", {})
    if not isinstance(headers, dict) or not isinstance(correlation_id, str | None):
        raise UnreadableMessage("malformed", "private fields")
    return Content(data[end:], correlation_id, event_headers(headers))
