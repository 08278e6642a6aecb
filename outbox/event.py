"""
What happened, and what travels.

An `Event` is made by the producer and checked when it is made, so that an error reaches its
developer inside the transaction. An `Envelope` is the same event on its way: the relay reads it
from the outbox, the consumer from the broker. Nothing here does I/O.

Everything outside the body can be seen by operators of the database and the broker.
Health data, names and user ids belong in the body alone; `ordering_key` stays in the database,
and what leaves it is a digest with a secret, the *lane*.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from uuid_utils.compat import uuid7

from outbox.errors import InvalidEvent
from outbox.payload import JSON_CONTENT_TYPE, MAX_BODY_BYTES, encode

MAX_KEY_BYTES = 255
"""AMQP 0-9-1 short strings hold at most 255 bytes (specification, section 4.2.5.3)."""

HeaderValue: TypeAlias = str | int | bool

_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_CONTENT_TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]+(; ?[a-z]+=[A-Za-z0-9.+-]+)*")
_CONTROL_OR_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")
_MAX_HEADER_BYTES = 1_024
_MAX_INTEGER = 2**63
_FIRST_TIME, _LAST_TIME = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

_allowed_headers = {"traceparent", "tracestate", "schema-version", "source"}


class Priority(StrEnum):
    """How urgent an event is; the broker may deliver higher ones first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


def allow_headers(*names: str) -> None:
    """
    Allow these header *names* in this process, besides traceparent, tracestate, source and
    schema-version.

    The relay and consumers take the same names from `MQ_ALLOWED_HEADERS`.

    Raises InvalidEvent if a name is not lower-case words joined by dashes, or is reserved.
    """
    for name in names:
        reserved = name.startswith(("x-", "amq")) or name in {"cc", "bcc"}
        if reserved or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 64:  # noqa: PLR2004
            raise InvalidEvent("headers", "an allowed name is reserved or not lower-case words")
    _allowed_headers.update(names)


def is_allowed_header(name: str) -> bool:
    """Whether events may carry a header of this *name* in this process."""
    return name in _allowed_headers


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that happened, to be published once the transaction that records it has committed.

    Args:
        type: Words joined by dots, such as `health.data.uploaded`.
        payload: A JSON value, a pydantic model, or bytes together with a *content_type*.
        routing_key: Default is the type. At most 255 bytes.
        ordering_key: Events of one key are published in insertion order. At most 255 bytes.
        idempotency_key: What a consumer deduplicates by. Default is the id.
        headers: Only allowed names (see `allow_headers`), with strings, integers or booleans.
        not_before: Publish no earlier than this. Default is at once.

    Raises InvalidEvent, which names the field and never its value.

    """

    type: str
    payload: Any
    id: UUID = field(default_factory=uuid7, kw_only=True)
    routing_key: str = field(default="", kw_only=True)
    ordering_key: str | None = field(default=None, kw_only=True)
    idempotency_key: str = field(default="", kw_only=True)
    priority: Priority = field(default=Priority.NORMAL, kw_only=True)
    headers: Mapping[str, HeaderValue] = field(default_factory=dict, kw_only=True)
    occurred_at: datetime = field(default_factory=lambda: datetime.now(UTC), kw_only=True)
    correlation_id: str | None = field(default=None, kw_only=True)
    not_before: datetime | None = field(default=None, kw_only=True)
    content_type: str = field(default="", kw_only=True)
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
        if self.not_before is not None:
            _check_time("not_before", self.not_before)
        check(self)

    def __repr__(self) -> str:
        return f"Event(type={self.type!r}, id={self.id!s})"


# Nobody changes it, but `frozen` would make it three times as expensive to make, and each event
# has one made.
@dataclass(slots=True, kw_only=True)
class Envelope:
    """
    An event on its way, with its body as bytes.

    *exchange* is None for the configured main exchange.
    *ordering_key* is None on the consumer's side: it never leaves the database. There *lane* says
    which messages belong together, or is None for those that have no key.
    *recorded_at* is when the outbox row was inserted, in whole seconds on the consumer's side.
    """

    id: UUID
    type: str
    body: bytes = field(repr=False)
    routing_key: str
    idempotency_key: str
    occurred_at: datetime
    exchange: str | None = None
    ordering_key: str | None = None
    lane: str | None = None
    correlation_id: str | None = None
    priority: Priority = Priority.NORMAL
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    recorded_at: datetime | None = None
    content_type: str = JSON_CONTENT_TYPE
    content_encoding: str | None = None


class SupportsEvent(Protocol):
    """Anything that can say itself as an `Event`, such as `HealthDataMessage`."""

    def to_event(self) -> Event: ...


def check(event: Event | Envelope) -> None:
    """
    Check everything about *event* that the broker and its consumers rely on.

    Raises InvalidEvent, which names the field and never its value.
    """
    check_type(event.type)
    _check_time("occurred_at", event.occurred_at)
    _check_key("routing_key", event.routing_key)
    _check_key("idempotency_key", event.idempotency_key)
    if event.ordering_key is not None:
        _check_key("ordering_key", event.ordering_key)
    if event.correlation_id is not None:
        _check_key("correlation_id", event.correlation_id)
    if not _is_text(event.content_type) or not _is_content_type(event.content_type):
        raise InvalidEvent("content_type", "must be a media type such as application/json")
    if len(event.body) > MAX_BODY_BYTES:
        raise InvalidEvent("payload", f"is larger than {MAX_BODY_BYTES} bytes")
    for name, value in event.headers.items():
        _check_header(name, value)


def check_type(value: str) -> None:
    """Raises InvalidEvent unless *value* is words joined by dots, at most 128 characters."""
    if not _is_text(value) or not _is_type(value):
        raise InvalidEvent("type", "must be words joined by dots, at most 128 characters")


# A service has few types, and a relay checks them for each event.
@lru_cache(maxsize=1024)
def _is_type(value: str) -> bool:
    return _TYPE.fullmatch(value) is not None and len(value) <= 128  # noqa: PLR2004


@lru_cache(maxsize=1024)
def _is_content_type(value: str) -> bool:
    return _CONTENT_TYPE.fullmatch(value) is not None and len(value) <= MAX_KEY_BYTES


def _is_text(value: object) -> bool:
    """Callers without a type checker pass anything."""
    return isinstance(value, str)


def _check_key(name: str, value: str) -> None:
    if not _is_text(value) or not value:
        raise InvalidEvent(name, "must be a string that is not empty")
    if (
        value.isascii()
        and value.isprintable()
        and " " not in value
        and len(value) <= MAX_KEY_BYTES
    ):
        return  # nearly all of them, without a regular expression
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(name, "is not valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise InvalidEvent(name, f"is longer than {MAX_KEY_BYTES} bytes")
    if _CONTROL_OR_SPACE.search(value):
        raise InvalidEvent(name, "must have no white space or control characters")


def _check_header(name: str, value: HeaderValue) -> None:
    if name not in _allowed_headers:
        raise InvalidEvent("headers", "has a name that is not allowed (see outbox.allow_headers)")
    match value:
        case bool():
            return
        case int():
            if not -_MAX_INTEGER <= value < _MAX_INTEGER:
                raise InvalidEvent(f"headers.{name}", "does not fit in 64 bits")
        case str():
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                raise InvalidEvent(f"headers.{name}", "is not valid Unicode") from None
            if size > _MAX_HEADER_BYTES or re.search(r"[\x00-\x1f\x7f]", value):
                raise InvalidEvent(
                    f"headers.{name}", f"is longer than {_MAX_HEADER_BYTES} bytes or has controls"
                )
        case _:
            raise InvalidEvent(f"headers.{name}", "must be a string, an integer or a boolean")


def _check_time(name: str, value: datetime) -> None:
    """AMQP has no time before 1970; the margin of a day is for time zones."""
    if getattr(value, "tzinfo", None) is None or value.utcoffset() is None:
        raise InvalidEvent(name, "must be a datetime with a time zone")
    if not _FIRST_TIME <= value < _LAST_TIME:
        raise InvalidEvent(name, "must be after 1970 and before 9999")


def _priority(value: str) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise InvalidEvent("priority", "must be low, normal or high") from None
