"""
Events as a test describes them, and as a broker would deliver them.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from pydantic import BaseModel

from outbox import producer_encryption
from outbox.event import Event, EventFields, SupportsEventType
from outbox.testing.recorded_event import type_of
from outbox.transports.delivery import Delivery
from outbox.wire import codec, row_codec
from outbox.wire.headers import ATTEMPT_HEADER

NO_PAYLOAD: Any = object()
"""The payload of an event or a model that is given as a whole."""


def event_of(kind: object, payload: Any, fields: EventFields) -> Event:
    """
    The event that a test describes: by a type and a payload, or by a model or an event alone.

    Raises TypeError if it is none of these, and InvalidEvent.
    """
    if isinstance(kind, (str, type)):
        if payload is NO_PAYLOAD:
            raise TypeError("payload: is missing")
        return Event(type_of(kind), payload, **fields)
    if payload is not NO_PAYLOAD:
        raise TypeError("payload: is given twice")
    convert = getattr(kind, "to_event", None)
    event = convert() if callable(convert) else kind
    if isinstance(event, BaseModel):
        return Event.of(cast("SupportsEventType", event), **fields)
    if not isinstance(event, Event):
        raise TypeError("must be an event type, a class with event_type, a model or an Event")
    return replace(event, **fields)


def delivery_of(event: Event, *, exchange: str, attempt: int, redelivered: bool) -> Delivery:
    """The delivery of *event* at this *attempt*, as the relay and a retry queue would make it."""
    row = {
        **producer_encryption.recorded(event, row_codec.to_row(event)),
        "exchange": None,
        "created_at": datetime.now(UTC),
    }
    message = codec.to_wire(row_codec.from_row(row), exchange=exchange)
    if attempt > 1:
        message = replace(message, headers={**message.headers, ATTEMPT_HEADER: attempt - 1})
    return Delivery(message, tag=0, redelivered=redelivered)
