"""
From an event to its row in the outbox, and from a row to its envelope.
"""

import json
from collections.abc import Mapping
from typing import Any

from outbox.errors import InvalidEvent, UnreadableMessage
from outbox.event import Event, Priority
from outbox.validation import check, check_key, check_time
from outbox.wire.envelope import Envelope

_PRIORITIES = {priority.value: priority for priority in Priority}


def to_row(event: Event) -> dict[str, Any]:
    """The values that the producer writes into the `outbox` table."""
    return {
        "event_id": event.id,
        "type": event.type,
        "exchange": event.exchange,
        "routing_key": event.routing_key,
        "ordering_key": event.ordering_key,
        "idempotency_key": event.idempotency_key,
        "correlation_id": event.correlation_id,
        "priority": event.priority.value,
        "headers": dict(event.headers),
        "content_type": event.content_type,
        "content_encoding": None,
        "body": event.body,
        "occurred_at": event.occurred_at,
        "not_before": event.not_before,
    }


WRITTEN_COLUMNS = tuple(to_row(Event("example", None)))
"""The columns that a producer writes."""


def from_row(row: Mapping[str, Any]) -> Envelope:
    """
    The envelope of an outbox row, checked again because any program may write rows.

    The headers of *row* are an object or its JSON text. A row that is too large to be read, or
    unreadable, has nulls, and is refused.

    Raises UnreadableMessage with the code `malformed`; its detail names the column.
    """
    try:
        # By position: with names it takes three times as long.
        envelope = Envelope(
            _identity(row["event_id"]),
            row["type"],
            row["body"],
            row["routing_key"],
            row["idempotency_key"],
            row["occurred_at"],
            row["exchange"],
            row["ordering_key"],
            None,
            row["correlation_id"],
            _PRIORITIES[row["priority"]],
            _headers(row["headers"]),
            row.get("created_at"),
            row["content_type"],
            row["content_encoding"],
            row.get("reply_to"),
            row.get("expires_at"),
        )
        check(envelope)
        for text in (envelope.exchange, envelope.content_encoding):
            if text is not None:
                str.encode(text)
        if envelope.reply_to is not None:
            check_key("reply_to", envelope.reply_to)
        if envelope.expires_at is not None:
            check_time("expires_at", envelope.expires_at)
    except InvalidEvent as error:
        raise UnreadableMessage("malformed", error.field) from None
    except (TypeError, ValueError, KeyError, OverflowError):
        raise UnreadableMessage("malformed") from None
    return envelope


def _identity(value: Any) -> Any:
    if value is None:
        raise InvalidEvent("event_id", "must be a UUID")
    return value


def _headers(value: Any) -> Mapping[str, Any]:
    """Return *value*, decoded if it is text; raises InvalidEvent if it is no JSON object."""
    if value == "{}":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # a number too long, lists nested too deep
            value = None
    if not isinstance(value, dict):
        raise InvalidEvent("headers", "must be an object")
    return value
