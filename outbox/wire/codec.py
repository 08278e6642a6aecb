"""
From an event to its row, from a row to its envelope, from an envelope to the wire and back.

The wire format is version 1. Its headers are in `outbox.wire.headers`, its AMQP properties here:

    AMQP property       value
    message_id          the event's id, the same on every republish
    type                the event's type
    correlation_id      as given, or absent
    timestamp           when the event occurred, in whole seconds
    content_type        application/json unless the payload was bytes
    content_encoding    absent, or gzip
    priority            0 low, 4 normal, 9 high (RabbitMQ 4 quorum queues: above 4 is high)
    delivery_mode       2, persistent
    app_id              outbox-relay

Copies of a message keep all its properties. Headers of the event itself keep their names. The
AMQP property `user_id` is never set: the broker compares it with the connection's user and closes
the channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from outbox.errors import InvalidEvent, UnreadableMessage
from outbox.event import Event, Priority
from outbox.validation import check
from outbox.wire.compression import decompress
from outbox.wire.envelope import Envelope
from outbox.wire.headers import (
    IDEMPOTENCY_KEY_HEADER,
    LANE_HEADER,
    OCCURRED_AT_HEADER,
    RECORDED_AT_HEADER,
    VERSION,
    VERSION_HEADER,
    Headers,
    epoch_seconds,
    in_utc_unless_zoned,
    iso_text,
    parse,
)

APP_ID = "outbox-relay"
_WIRE_PRIORITY = {Priority.LOW: 0, Priority.NORMAL: 4, Priority.HIGH: 9}
_PRIORITIES = {priority.value: priority for priority in Priority}


# Not frozen for the reason that Envelope is not.
@dataclass(slots=True, kw_only=True)
class WireMessage:
    """A message as a broker holds it: what AMQP 0-9-1 calls properties, headers and body."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    message_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    timestamp: datetime | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    priority: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


def to_row(event: Event) -> dict[str, Any]:
    """The values that the producer writes into the `outbox` table."""
    return {
        "event_id": event.id,
        "type": event.type,
        "routing_key": event.routing_key,
        "ordering_key": event.ordering_key,
        "idempotency_key": event.idempotency_key,
        "correlation_id": event.correlation_id,
        "priority": event.priority.value,
        "headers": dict(event.headers),
        "content_type": event.content_type,
        "body": event.body,
        "occurred_at": event.occurred_at,
        "not_before": event.not_before,
    }


def from_row(row: Mapping[str, Any]) -> Envelope:
    """
    The envelope of an outbox row, checked again because any program may write rows.

    Raises UnreadableMessage with the code `malformed`; its detail names the column.
    """
    try:
        envelope = Envelope(
            id=row["event_id"],
            type=row["type"],
            body=row["body"],
            exchange=row["exchange"],
            routing_key=row["routing_key"],
            ordering_key=row["ordering_key"],
            idempotency_key=row["idempotency_key"],
            correlation_id=row["correlation_id"],
            priority=_PRIORITIES[row["priority"]],
            headers=_mapping(row["headers"]),
            content_type=row["content_type"],
            content_encoding=row["content_encoding"],
            occurred_at=row["occurred_at"],
            recorded_at=row.get("created_at"),
        )
        check(envelope)
    except InvalidEvent as error:
        raise UnreadableMessage("malformed", error.field) from None
    except (TypeError, ValueError, KeyError, OverflowError):
        raise UnreadableMessage("malformed") from None
    return envelope


def to_wire(envelope: Envelope, *, exchange: str, lane: str | None = None) -> WireMessage:
    """
    The message for *envelope*.

    *exchange* is the configured one, for envelopes without. *lane* is what may be seen of the
    ordering key, 32 hex digits, or None if there is no key. With a key the priority is the normal
    one: brokers would deliver the messages of a key out of order.
    """
    headers: dict[str, Any] = {
        **envelope.headers,
        VERSION_HEADER: VERSION,
        IDEMPOTENCY_KEY_HEADER: envelope.idempotency_key,
        OCCURRED_AT_HEADER: iso_text(envelope.occurred_at),
    }
    if envelope.recorded_at is not None:
        headers[RECORDED_AT_HEADER] = epoch_seconds(envelope.recorded_at)
    if lane is not None:
        headers[LANE_HEADER] = lane
    return WireMessage(
        exchange=exchange if envelope.exchange is None else envelope.exchange,
        routing_key=envelope.routing_key,
        body=envelope.body,
        message_id=str(envelope.id),
        type=envelope.type,
        correlation_id=envelope.correlation_id,
        timestamp=envelope.occurred_at,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        priority=_WIRE_PRIORITY[Priority.NORMAL if lane is not None else envelope.priority],
        headers=headers,
    )


def from_wire(message: WireMessage, headers: Headers | None = None) -> Envelope:
    """
    The envelope of a delivered *message*, its body decompressed.

    *headers* are those of the message, if they are parsed already. Messages of other publishers
    are read too, as long as they have an id and a type: without the headers of the wire format
    their idempotency key is the message id, they have no lane, and both times are the property
    `timestamp`.

    Raises UnreadableMessage with one of the codes `no_identity`, `malformed`,
    `schema_unsupported`, `content_encoding_unknown`, `decompress_limit`.
    """
    ours = parse(message.headers) if headers is None else headers
    if not ours.is_supported:
        raise UnreadableMessage("schema_unsupported")
    identity = _identity(message.message_id)
    sent_at = None if message.timestamp is None else in_utc_unless_zoned(message.timestamp)
    body = message.body
    try:
        envelope = Envelope(
            id=identity,
            type=message.type or "",
            body=decompress(body, message.content_encoding) if message.content_encoding else body,
            exchange=message.exchange if ours.exchange is None else ours.exchange,
            routing_key=message.routing_key if ours.routing_key is None else ours.routing_key,
            idempotency_key=ours.idempotency_key
            if ours.idempotency_key is not None
            else str(identity),
            lane=ours.lane,
            correlation_id=message.correlation_id,
            priority=priority_of(message),
            headers=_event_headers(message.headers),
            content_type=message.content_type or "application/octet-stream",
            occurred_at=ours.occurred_at or sent_at or datetime.now(UTC),
            recorded_at=ours.recorded_at or sent_at,
        )
        # Headers of other publishers are not ours to refuse.
        check(replace(envelope, headers={}))
    except InvalidEvent as error:
        raise UnreadableMessage("malformed", error.field) from None
    return envelope


def priority_of(message: WireMessage) -> Priority:
    """The priority of *message*; other publishers may use any number, or none."""
    normal = _WIRE_PRIORITY[Priority.NORMAL]
    if message.priority is None or message.priority == normal:
        return Priority.NORMAL
    return Priority.LOW if message.priority < normal else Priority.HIGH


def wire_priority(priority: Priority) -> int:
    """What the AMQP property says for *priority*."""
    return _WIRE_PRIORITY[priority]


def _identity(message_id: str | None) -> UUID:
    try:
        return UUID(message_id or "")
    except ValueError:
        raise UnreadableMessage("no_identity") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidEvent("headers", "must be an object")
    return value


def _event_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in headers.items()
        if not name.startswith("x-") and isinstance(value, str | int | bool)
    }
