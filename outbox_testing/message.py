"""
A message for a handler that a test calls itself.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar, Unpack
from uuid import UUID

from pydantic import BaseModel
from uuid_utils.compat import uuid7

from consumer.message import Message
from outbox.testing.recorded_event import type_of

Payload = TypeVar("Payload")

_DEFAULT_TYPE = "test.happened"


class MessageFields(TypedDict, total=False):
    """The fields of a message that have defaults in a test."""

    id: UUID | str
    idempotency_key: str
    routing_key: str
    occurred_at: datetime
    correlation_id: str | None
    headers: Mapping[str, Any]
    attempt: int
    redelivered: bool
    content_type: str


def a_message(
    payload: Payload,
    *,
    type: str | type[object] | None = None,  # noqa: A002 - the name of the field
    **changes: Unpack[MessageFields],
) -> Message[Payload]:
    """
    A message with *payload*, as a handler gets it that the test calls itself.

    The *type* is an event type or a class with `event_type`; by default that of the payload's
    class, or else `test.happened`. The other fields have defaults: an id of its own, the id as
    idempotency key, the type as routing key, now as time, and attempt 1.
    """
    kind = _type_of_payload(payload) if type is None else type_of(type)
    identity = changes.get("id", uuid7())
    values: dict[str, Any] = {
        "id": identity,
        "idempotency_key": str(identity),
        "routing_key": kind,
        "occurred_at": datetime.now(UTC),
        "correlation_id": None,
        "headers": {},
        "attempt": 1,
        "redelivered": False,
        **changes,
    }
    return Message(type=kind, payload=payload, **values)


def _type_of_payload(payload: object) -> str:
    of_class = getattr(payload, "event_type", None)
    return (
        of_class if isinstance(payload, BaseModel) and isinstance(of_class, str) else _DEFAULT_TYPE
    )
