"""
A recorded event, as a test sees it.
"""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from outbox import json_text, media_type
from outbox.event import Event, Priority, event_type_of
from outbox.validation import HeaderValue

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """
    An event in the outbox, or one that the relay has published.

    Args:
        payload: The JSON value, or the bytes if the content type is not JSON.
        body: The payload as it is stored.
        exchange: None for MQ_MAIN_EXCHANGE.
        ordering_key: Of a published event None: it never leaves the database.

    """

    type: str
    payload: Any
    routing_key: str
    ordering_key: str | None
    idempotency_key: str
    headers: Mapping[str, HeaderValue]
    correlation_id: str | None
    content_type: str
    not_before: datetime | None
    priority: Priority
    id: UUID
    occurred_at: datetime
    body: bytes
    exchange: str | None = None

    def payload_as(self, model: builtins.type[Payload]) -> Payload:
        """
        Return the payload as *model*, a pydantic model or another type that pydantic validates.

        Raises pydantic's ValidationError.
        """
        return TypeAdapter(model).validate_json(self.body)

    def __repr__(self) -> str:
        return f"<RecordedEvent {self}>"

    def __str__(self) -> str:
        extras = {
            "exchange": self.exchange,
            "routing_key": self.routing_key if self.routing_key != self.type else None,
            "ordering_key": self.ordering_key,
            "headers": dict(self.headers) or None,
            "correlation_id": self.correlation_id,
            "not_before": self.not_before and self.not_before.isoformat(),
            "priority": None if self.priority is Priority.NORMAL else self.priority.value,
        }
        shown = "".join(
            f" {name}={value!r}" for name, value in extras.items() if value is not None
        )
        return f"{self.type} payload={self.payload!r}{shown}"


def from_values(values: Mapping[str, Any]) -> RecordedEvent:
    """The event whose columns of the outbox have these *values*."""
    content_type, body = values["content_type"], bytes(values["body"])
    return RecordedEvent(
        type=values["type"],
        payload=json_text.read(body) if media_type.is_json(content_type) else body,
        routing_key=values["routing_key"],
        ordering_key=values["ordering_key"],
        idempotency_key=values["idempotency_key"],
        headers=dict(values["headers"]),
        correlation_id=values["correlation_id"],
        content_type=content_type,
        not_before=values["not_before"],
        priority=Priority(values["priority"]),
        id=values["event_id"],
        occurred_at=values["occurred_at"],
        body=body,
        exchange=values.get("exchange"),
    )


def type_of(kind: str | type[object]) -> str:
    """
    The event type that *kind* stands for: itself, or the `event_type` of a class.

    Raises InvalidEvent for a class without one.
    """
    return kind if isinstance(kind, str) else event_type_of(kind)


def type_of_example(example: object) -> str:
    """The event type of *example*, an event or an instance of a model with `event_type`."""
    convert = getattr(example, "to_event", None)
    event = convert() if callable(convert) else example
    return event.type if isinstance(event, Event) else type_of(type(example))
