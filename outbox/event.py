"""
Events, as producers make them.

An `Event` is checked when it is made, so that an error reaches the developer inside the
transaction. `outbox.wire.envelope.Envelope` is the same event in transit: the relay reads it from
the outbox, the consumer from the broker. This module does no I/O.

Operators of the database and the broker can see everything outside the body. Health data, names
and user ids therefore belong in the body alone. The `ordering_key` stays in the database; the
message carries the *lane*, a keyed hash of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypedDict, Unpack
from uuid import UUID

from uuid_utils.compat import uuid7

from outbox.errors import InvalidEvent
from outbox.payload import COMPRESSIONS, Compression, encode
from outbox.validation import (
    HeaderValue,
    check,
    check_exchange,
    check_key,
    check_time,
    check_type,
)


class Priority(StrEnum):
    """The priority of an event: urgent ones leave first; the broker may deliver them first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Event:
    """
    An event that is published after the transaction that records it has committed.

    Args:
        type: Words joined by dots, such as `health.data.uploaded`; that of the class of *payload*
            if it names an `event_type`.
        payload: A JSON value, a pydantic model, or bytes together with a *content_type*.
        routing_key: At most 255 bytes. Default is the type.
        exchange: The exchange that it is published to. Default is MQ_MAIN_EXCHANGE of the relay;
            "" is the default exchange, whose routing keys are names of queues.
        ordering_key: Events of one key are published in insertion order. At most 255 bytes.
        idempotency_key: Consumers drop a message whose key they have completed. Default is the id.
        headers: Strings, integers or booleans under allowed names (see `allow_headers`).
        not_before: The relay publishes the event no earlier than this. Default is at once.
        subject: The person that the event is about, whose key encrypts it; `relay erase` destroys
            the key. The name never leaves this process. Needs MQ_ENCRYPTION_KEYS. Default is the
            field of a model that its `event_subject` names, where persons have keys.
        compression: "gzip", "zstd" or "none". Default is that of the process, MQ_COMPRESSION.

    Raises InvalidEvent, which names the field and never its value.

    """

    type: str
    payload: Any
    id: UUID = field(default_factory=uuid7, kw_only=True)
    routing_key: str = field(default="", kw_only=True)
    exchange: str | None = field(default=None, kw_only=True)
    ordering_key: str | None = field(default=None, kw_only=True)
    idempotency_key: str = field(default="", kw_only=True)
    priority: Priority = field(default=Priority.NORMAL, kw_only=True)
    headers: Mapping[str, HeaderValue] = field(default_factory=dict, kw_only=True)
    occurred_at: datetime = field(default_factory=lambda: datetime.now(UTC), kw_only=True)
    correlation_id: str | None = field(default=None, kw_only=True)
    not_before: datetime | None = field(default=None, kw_only=True)
    content_type: str = field(default="", kw_only=True)
    subject: str | None = field(default=None, kw_only=True, repr=False)
    compression: Compression | None = field(default=None, kw_only=True)
    body: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        body, content_type = encode(self.payload, self.content_type)
        put(self, "body", body)
        put(self, "content_type", content_type)
        put(self, "routing_key", self.routing_key or self.type)
        put(self, "idempotency_key", self.idempotency_key or str(self.id))
        put(self, "priority", _priority(self.priority))
        if not isinstance(self.headers, Mapping):
            raise InvalidEvent("headers", "must be a mapping")
        put(self, "headers", MappingProxyType(dict(self.headers)))
        if not isinstance(self.id, UUID):
            raise InvalidEvent("id", "must be a UUID")
        _check_type_of_model(self.type, type(self.payload))
        if self.not_before is not None:
            check_time("not_before", self.not_before)
        if self.subject is not None:
            check_key("subject", self.subject)
        if self.exchange is not None:
            check_exchange(self.exchange)
        if self.compression not in {None, *COMPRESSIONS}:
            raise InvalidEvent("compression", f"must be {', '.join(COMPRESSIONS)} or None")
        check(self)

    @classmethod
    def of(cls, model: "SupportsEventType", /, **fields: Unpack["EventFields"]) -> Self:
        """
        Return the event of a *model* whose class names its type, with further *fields*.

        Raises InvalidEvent, also if the class of *model* has no `event_type`.
        """
        return cls(event_type_of(type(model)), model, **fields)

    def __repr__(self) -> str:
        return f"Event(type={self.type!r}, id={self.id!s})"


class EventFields(TypedDict, total=False):
    """The fields of an `Event` besides type and payload."""

    id: UUID
    routing_key: str
    exchange: str | None
    ordering_key: str | None
    idempotency_key: str
    priority: Priority
    headers: Mapping[str, HeaderValue]
    occurred_at: datetime
    correlation_id: str | None
    not_before: datetime | None
    content_type: str
    subject: str | None
    compression: Compression | None


class SupportsEventType(Protocol):
    """A pydantic model whose class names the type of its events."""

    event_type: ClassVar[str]


def event_type_of(model: type) -> str:
    """
    Return the type of event that the class *model* names.

    Raises InvalidEvent if it names none, or one that no event can have.
    """
    event_type = getattr(model, "event_type", None)
    if not isinstance(event_type, str):
        raise InvalidEvent("event_type", f"must be a ClassVar[str] of the class {model.__name__}")
    check_type(event_type)
    return event_type


def _check_type_of_model(event_type: str, model: type) -> None:
    named = getattr(model, "event_type", event_type)
    if isinstance(named, str) and named != event_type:
        raise InvalidEvent("type", f"must be that of the class {model.__name__} of the payload")


class SupportsEvent(Protocol):
    """An object that can be converted to an `Event`, such as `HealthDataMessage`."""

    def to_event(self) -> Event: ...


def _priority(value: str) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise InvalidEvent("priority", "must be low, normal or high") from None
