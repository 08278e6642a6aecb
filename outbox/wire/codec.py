"""
From an envelope to the wire and back.

The wire format is version 1. Its headers are in `outbox.wire.headers`, its AMQP properties here:

    AMQP property       value
    message_id          the event's id, the same on every republish
    type                the event's type
    correlation_id      as given, or absent; of a request its message_id, unless it has another
    reply_to            of a request: the queue that takes its reply
    timestamp           when the event occurred, in whole seconds
    content_type        application/json unless the payload was bytes
    content_encoding    absent, gzip, or outbox-aes256gcm for an encrypted body
    priority            0 low, 4 normal, 9 high (RabbitMQ 4 quorum queues: above 4 is high)
    delivery_mode       2, persistent
    app_id              outbox-relay

Copies of a message keep all its properties. Headers of the event itself keep their names. The
AMQP property `user_id` is never set: the broker compares it with the connection's user and closes
the channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from outbox import media_type
from outbox.errors import UnreadableMessage
from outbox.event import Priority
from outbox.payload import MAX_BODY_BYTES
from outbox.validation import MAX_KEY_BYTES, is_key, is_type
from outbox.wire.compression import decompress
from outbox.wire.encrypted import ENCODING, KEY_UNKNOWN, Decrypt
from outbox.wire.envelope import Envelope
from outbox.wire.headers import (
    EXPIRES_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    LANE_HEADER,
    OCCURRED_AT_HEADER,
    PRIORITY_HEADER,
    RECORDED_AT_HEADER,
    ROUTING_KEY_HEADER,
    VERSION,
    VERSION_HEADER,
    Headers,
    epoch_seconds,
    event_headers,
    iso_text,
    octet,
    parse,
    possible_time,
)

APP_ID = "outbox-relay"
_WIRE_PRIORITY = {Priority.LOW: 0, Priority.NORMAL: 4, Priority.HIGH: 9}
_NORMAL, _WIRE_NORMAL = Priority.NORMAL, _WIRE_PRIORITY[Priority.NORMAL]


# Neither frozen nor with arguments by name only, for the reason that Envelope has neither.
@dataclass(slots=True)
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
    reply_to: str | None = None

    @property
    def first_routing_key(self) -> str:
        """The routing key that the event was published with; a copy has another one."""
        first = self.headers.get(ROUTING_KEY_HEADER)
        # Any publisher may write any value here.
        return first if isinstance(first, str) else self.routing_key


def to_wire(envelope: Envelope, *, exchange: str, lane: str | None = None) -> WireMessage:
    """
    The message for *envelope*.

    *exchange* is the configured one, for envelopes without. *lane* is what may be seen of the
    ordering key, 32 hex digits, or None if there is no key. With a key the priority is the normal
    one: brokers would deliver the messages of a key out of order.
    """
    occurred_at, is_normal = envelope.occurred_at, envelope.priority is _NORMAL
    headers: dict[str, Any] = {
        **envelope.headers,
        VERSION_HEADER: VERSION,
        IDEMPOTENCY_KEY_HEADER: envelope.idempotency_key,
        OCCURRED_AT_HEADER: iso_text(occurred_at),
    }
    if envelope.recorded_at is not None:
        headers[RECORDED_AT_HEADER] = epoch_seconds(envelope.recorded_at)
    if lane is not None:
        headers[LANE_HEADER] = lane
    if envelope.expires_at is not None:
        headers[EXPIRES_HEADER] = iso_text(envelope.expires_at)
    # By position: with names it takes three times as long.
    return WireMessage(
        exchange if envelope.exchange is None else envelope.exchange,
        envelope.routing_key,
        envelope.body,
        str(envelope.id),
        envelope.type,
        envelope.correlation_id,
        occurred_at,
        envelope.content_type,
        envelope.content_encoding,
        _WIRE_NORMAL if is_normal or lane is not None else _WIRE_PRIORITY[envelope.priority],
        headers,
        envelope.reply_to,
    )


def from_wire(
    message: WireMessage, headers: Headers | None = None, decrypt: Decrypt | None = None
) -> Envelope:
    """
    The envelope of a delivered *message*, its body decompressed and decrypted.

    *decrypt* is called for each message; without it an encrypted one cannot be read. *headers* are
    those of the message, if they are parsed already. Messages of other publishers are read too, as
    long as they have an id and a type: without the headers of the wire format their idempotency
    key is the message id, they have no lane, and both times are the property `timestamp`. A
    correlation id or a time that no event of ours could have counts as absent.

    Raises UnreadableMessage with one of the codes `no_identity`, `malformed`,
    `schema_unsupported`, `content_encoding_unknown`, `decompress_limit`, `zstd_missing`,
    `key_unknown`, and those of *decrypt*.
    """
    ours = parse(message.headers) if headers is None else headers
    if not ours.is_supported:
        raise UnreadableMessage("schema_unsupported")
    identity = identity_of(message.message_id)
    sent_at = None if message.timestamp is None else possible_time(message.timestamp)
    body, encoding = message.body, message.content_encoding
    if encoding and encoding != ENCODING:
        body, encoding = decompress(body, encoding), None
    envelope = Envelope(
        id=identity,
        type=message.type or "",
        body=body,
        exchange=message.exchange if ours.exchange is None else ours.exchange,
        routing_key=message.routing_key if ours.routing_key is None else ours.routing_key,
        idempotency_key=str(identity) if ours.idempotency_key is None else ours.idempotency_key,
        lane=ours.lane,
        correlation_id=message.correlation_id if _is_key(message.correlation_id) else None,
        priority=priority_of(message),
        headers=event_headers(message.headers),
        content_type=message.content_type or media_type.UNKNOWN,
        occurred_at=ours.occurred_at or sent_at or datetime.now(UTC),
        recorded_at=ours.recorded_at or sent_at,
        reply_to=message.reply_to if _is_key(message.reply_to) else None,
        expires_at=ours.expires_at,
        content_encoding=encoding or None,
    )
    if decrypt is not None:
        envelope = decrypt(envelope)
    elif envelope.content_encoding is not None:
        raise UnreadableMessage(KEY_UNKNOWN, "MQ_ENCRYPTION_KEYS")
    if (field := _unusable_field(envelope)) is not None:
        raise UnreadableMessage("malformed", field)
    return envelope


def identity_of(message_id: str | None) -> UUID | str:
    """
    The identity of a message: a UUID in any of its spellings, or the text of another publisher.

    Raises UnreadableMessage with the code `no_identity` if there is none.
    """
    try:
        return UUID(message_id or "")
    except ValueError:
        if message_id is None or not _is_key(message_id):
            raise UnreadableMessage("no_identity") from None
        return message_id


def priority_of(message: WireMessage) -> Priority:
    """The priority of *message*; other publishers may use any number, or none."""
    normal, priority = _WIRE_PRIORITY[Priority.NORMAL], sent_priority(message)
    if priority is None or priority == normal:
        return Priority.NORMAL
    return Priority.LOW if priority < normal else Priority.HIGH


def sent_priority(message: WireMessage) -> int | None:
    """
    The AMQP priority that *message* was published with.

    A copy that waits for a retry has the normal one, and this one in a header.
    """
    remembered = octet(message.headers.get(PRIORITY_HEADER))
    return message.priority if remembered is None else remembered


def wire_priority(priority: Priority) -> int:
    """What the AMQP property says for *priority*."""
    return _WIRE_PRIORITY[priority]


def _unusable_field(envelope: Envelope) -> str | None:
    """
    The field of a delivered *envelope* without which it cannot be handled; None if all are fine.

    Headers, routing keys and times of other publishers are not ours to refuse.
    """
    if not is_type(envelope.type):
        return "type"
    if not _is_key(envelope.idempotency_key):
        return "idempotency_key"
    if not media_type.is_media_type(envelope.content_type):
        return "content_type"
    return "payload" if len(envelope.body) > MAX_BODY_BYTES else None


def _is_key(value: str | None) -> bool:
    if value is None:
        return False
    # Nearly all keys, without a call into another module.
    if value.isascii() and value.isprintable():
        return 0 < len(value) <= MAX_KEY_BYTES and " " not in value
    return is_key(value)
