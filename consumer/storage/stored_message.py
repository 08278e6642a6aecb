"""
A message as columns of a row, and back to a message that can be published again.

The columns are `outbox.tables.message_columns`. Every message can be stored, however malformed.
"""

import re
from collections.abc import Mapping
from typing import Any

from outbox.event import Priority
from outbox.wire.codec import WireMessage, priority_of, wire_priority
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER

_MAX_TEXT = 1_024
_NO_TEXT = frozenset({"body", "headers"})
_PRIORITIES = frozenset(Priority)
_TYPE_PLACEHOLDER = re.compile(r"<\w+>")


def to_columns(message: WireMessage) -> dict[str, Any]:
    """
    The values of the columns that store *message*.

    Of a header that is not a plain value, such as those that a broker adds, only the type is kept.
    """
    return {
        "message_id": _text(message.message_id),
        "type": _text(message.type),
        "exchange": _text(message.exchange),
        "routing_key": _text(message.routing_key),
        "idempotency_key": _text(message.headers.get(IDEMPOTENCY_KEY_HEADER)),
        "correlation_id": _text(message.correlation_id),
        "priority": priority_of(message).value,
        "headers": {_text(name): _plain(value) for name, value in message.headers.items()},
        "content_type": _text(message.content_type),
        "content_encoding": _text(message.content_encoding),
        "body": message.body,
        "occurred_at": message.timestamp,
        "reply_to": _text(message.reply_to),
    }


def from_columns(row: Mapping[str, Any]) -> WireMessage:
    """The message stored in *row*, without the headers of which only the type was kept."""
    return WireMessage(
        exchange=row["exchange"] or "",
        routing_key=row["routing_key"] or "",
        body=row["body"],
        message_id=row["message_id"],
        type=row["type"],
        correlation_id=row["correlation_id"],
        reply_to=row["reply_to"],
        timestamp=row["occurred_at"],
        content_type=row["content_type"],
        content_encoding=row["content_encoding"],
        priority=wire_priority(Priority(row["priority"] or Priority.NORMAL)),
        headers={
            name: value
            for name, value in row["headers"].items()
            if not (isinstance(value, str) and _TYPE_PLACEHOLDER.fullmatch(value))
        },
    )


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """
    *row* with values that any statement and message can have, whatever a program has stored.

    SQLite stores text that is not UTF-8, and takes none as a parameter: its bytes become escapes.
    """
    headers = row["headers"]
    values = {name: _escaped(value) for name, value in row.items() if name not in _NO_TEXT}
    return {
        **row,
        **values,
        "priority": values["priority"] if values["priority"] in _PRIORITIES else None,
        "headers": {_escaped(name): _escaped(value) for name, value in headers.items()}
        if isinstance(headers, Mapping)
        else {},
    }


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        value = value.encode(errors="surrogateescape" if _is_escaped(value) else "surrogatepass")
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _is_escaped(text: str) -> bool:
    """Whether each lone surrogate of *text* stands for a byte that is not UTF-8."""
    return all(not "\ud800" <= sign <= "\udfff" or "\udc80" <= sign <= "\udcff" for sign in text)


def _text(value: Any) -> str | None:
    """*value* without NUL, which Postgres does not store, and at most 1,024 characters."""
    return value.replace("\0", "")[:_MAX_TEXT] if isinstance(value, str) else None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int) or value is None:
        return value
    return f"<{type(value).__name__}>"
