"""
A delivered event, as a handler gets it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from outbox.payload import JSON_CONTENT_TYPE

Payload_co = TypeVar("Payload_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Message(Generic[Payload_co]):
    """
    An event with its payload as the registered model, as a JSON value, or as bytes.

    Args:
        id: A UUID, or the text that another publisher chose as the id of its message.
        attempt: The number of this attempt: 1, and 1 more for each attempt that has failed.
        redelivered: The broker has delivered it before, perhaps to a process that ended.
        content_type: The media type of the body; `application/octet-stream` if it names none.
        reply_to: Of a request, the queue for its reply, which is the value that a handler returns.
        expires_at: Of a request, its deadline.

    """

    id: UUID | str
    type: str
    payload: Payload_co = field(repr=False)
    idempotency_key: str = field(repr=False)
    routing_key: str
    occurred_at: datetime
    correlation_id: str | None = field(repr=False)
    headers: Mapping[str, Any] = field(repr=False)
    attempt: int
    redelivered: bool
    content_type: str = JSON_CONTENT_TYPE
    reply_to: str | None = None
    expires_at: datetime | None = None
