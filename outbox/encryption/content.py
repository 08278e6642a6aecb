"""
The content of an encrypted body: private fields of the event, and its body. Pure.

    size  field
    4     p, the length of the private fields, big-endian; 0 if there are none
    p     a JSON object: `correlation_id` (a string) and `headers` (an object), each if it is there
    rest  the body of the event
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from outbox.errors import UnreadableMessage
from outbox.payload import MAX_BODY_BYTES

_LENGTH_BYTES = 4
MAX_BYTES = MAX_BODY_BYTES + 131_072
"""The largest content: a body, and private fields of less than twice the headers of a row."""
_NOTHING = bytes(_LENGTH_BYTES)


class Content(NamedTuple):
    """The *body* of an event, and what else of it is private."""

    body: bytes
    correlation_id: str | None
    headers: Mapping[str, Any]


def pack(content: Content) -> bytes:
    """The bytes of *content*."""
    fields: dict[str, Any] = {}
    if content.correlation_id is not None:
        fields["correlation_id"] = content.correlation_id
    if content.headers:
        fields["headers"] = dict(content.headers)
    if not fields:
        return _NOTHING + content.body
    private = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join((len(private).to_bytes(_LENGTH_BYTES), private, content.body))


def unpack(data: bytes) -> Content:
    """The content in *data*; raises UnreadableMessage with the code `malformed`."""
    if data.startswith(_NOTHING):
        return Content(data[_LENGTH_BYTES:], None, {})
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES])
    try:
        fields = json.loads(data[_LENGTH_BYTES:end]) if end <= len(data) else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UnreadableMessage("malformed", "body")
    correlation_id, headers = fields.get("correlation_id"), fields.get("headers", {})
    if not isinstance(headers, dict) or not isinstance(correlation_id, str | None):
        raise UnreadableMessage("malformed", "body")
    return Content(data[end:], correlation_id, headers)
