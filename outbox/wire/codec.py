"""
From an event to its row, from a row to its envelope, from an envelope to the wire and back.

This module owns every header name. The wire format is version 1:

    AMQP property       what it holds
    message_id          the event's id, the same on every republish
    type                the event's type
    correlation_id      as given, or absent
    timestamp           when it occurred, in whole seconds
    content_type        application/json unless the payload was bytes
    content_encoding    absent, or gzip
    priority            0 low, 4 normal, 9 high (RabbitMQ 4 quorum queues: above 4 is high)
    delivery_mode       2, persistent
    app_id              outbox-relay

    header                      what it holds
    x-outbox-version            1
    x-outbox-idempotency-key    what consumers deduplicate by
    x-outbox-occurred-at        when it occurred, ISO 8601 in UTC, with microseconds
    x-outbox-recorded-at        when its outbox row was inserted, in whole seconds since 1970
    x-outbox-lane               a digest of its ordering key, 32 hex digits; absent without a key
    x-outbox-attempt            on a retried copy: failed attempts so far
    x-outbox-exchange           on a retried or replayed copy: where it was first published
    x-outbox-routing-key        on a retried copy: likewise
    x-outbox-requeues           on a copy of what the broker gave up: how often it was put back
    x-outbox-not-before         on a retried copy that no retry queue keeps long enough: until when
    x-outbox-replay             on a replayed copy, and its retries: the run, see `audit_log`

The ordering key itself is not on the wire. Retried copies keep all properties and headers.
Headers of the event itself keep their names. The AMQP property `user_id` is never set: the broker
compares it with the connection's user and closes the channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from outbox.errors import InvalidEvent, UnreadableMessage
from outbox.event import Event, Priority
from outbox.validation import check
from outbox.wire import header_values
from outbox.wire.compression import decompress
from outbox.wire.envelope import Envelope

APP_ID = "outbox-relay"
VERSION = 1

VERSION_HEADER = "x-outbox-version"
IDEMPOTENCY_KEY_HEADER = "x-outbox-idempotency-key"
OCCURRED_AT_HEADER = "x-outbox-occurred-at"
RECORDED_AT_HEADER = "x-outbox-recorded-at"
LANE_HEADER = "x-outbox-lane"
ATTEMPT_HEADER = "x-outbox-attempt"
EXCHANGE_HEADER = "x-outbox-exchange"
ROUTING_KEY_HEADER = "x-outbox-routing-key"
NOT_BEFORE_HEADER = "x-outbox-not-before"
REQUEUES_HEADER = "x-outbox-requeues"
REPLAY_HEADER = "x-outbox-replay"

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
        OCCURRED_AT_HEADER: header_values.iso_text(envelope.occurred_at),
    }
    if envelope.recorded_at is not None:
        headers[RECORDED_AT_HEADER] = header_values.epoch_seconds(envelope.recorded_at)
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


def from_wire(message: WireMessage) -> Envelope:
    """
    The envelope of a delivered *message*, its body decompressed.

    Messages of other publishers are read too, as long as they have an id and a type; without the
    header their idempotency key is the message id, and without theirs they have no lane and were
    recorded when their property `timestamp` says.

    Raises UnreadableMessage with one of the codes `no_identity`, `malformed`,
    `schema_unsupported`, `content_encoding_unknown`, `decompress_limit`.
    """
    headers = message.headers
    if headers.get(VERSION_HEADER, VERSION) != VERSION:
        raise UnreadableMessage("schema_unsupported")
    identity = header_values.identity(message.message_id)
    try:
        envelope = Envelope(
            id=identity,
            type=message.type or "",
            body=decompress(message.body, message.content_encoding),
            exchange=header_values.text(headers.get(EXCHANGE_HEADER), message.exchange),
            routing_key=header_values.text(headers.get(ROUTING_KEY_HEADER), message.routing_key),
            idempotency_key=header_values.text(headers.get(IDEMPOTENCY_KEY_HEADER), str(identity)),
            lane=header_values.lane(headers.get(LANE_HEADER)),
            correlation_id=message.correlation_id,
            priority=priority_of(message),
            headers=_event_headers(headers),
            content_type=message.content_type or "application/octet-stream",
            occurred_at=header_values.occurred_at(
                headers.get(OCCURRED_AT_HEADER), message.timestamp
            ),
            recorded_at=header_values.recorded_at(
                headers.get(RECORDED_AT_HEADER), message.timestamp
            ),
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


def lane_of(message: WireMessage) -> str | None:
    """The lane of *message*; None if it has no ordering key, or its header is nonsense."""
    return header_values.lane(message.headers.get(LANE_HEADER))


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
