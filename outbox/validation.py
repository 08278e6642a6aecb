"""
Rules for the fields of an event, checked when it is made and again before it is published.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol, TypeAlias

from outbox.errors import InvalidEvent
from outbox.media_type import is_media_type
from outbox.payload import MAX_BODY_BYTES

MAX_KEY_BYTES = 255
"""AMQP 0-9-1 short strings hold at most 255 bytes (specification, section 4.2.5.3)."""


HeaderValue: TypeAlias = str | int | bool

_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

_EXCHANGE = re.compile(r"[A-Za-z0-9_.:-]{1,200}")

_CONTROL_OR_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")

_MAX_HEADER_BYTES = 1_024

_MAX_INTEGER = 2**63


FIRST_TIME, LAST_TIME = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


_allowed_headers = {"traceparent", "tracestate", "schema-version", "source"}


def allow_headers(*names: str) -> None:
    """
    Allow header *names* in this process, in addition to the default ones.

    The defaults are traceparent, tracestate, source and schema-version. Relay and consumers read
    the additional names from `MQ_ALLOWED_HEADERS`.

    Raises InvalidEvent if a name is not lower-case words joined by dashes, or is reserved.
    """
    for name in names:
        if not isinstance(name, str):
            raise InvalidEvent("headers", "a name must be a string")
        reserved = name.startswith(("x-", "amq")) or name in {"cc", "bcc"}
        if reserved or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 64:  # noqa: PLR2004
            raise InvalidEvent(
                "headers", "a name is reserved, or is not lower-case words joined by dashes"
            )
    _allowed_headers.update(names)


def is_allowed_header(name: str) -> bool:
    """Return whether events in this process may carry a header of this *name*."""
    return name in _allowed_headers


class Checkable(Protocol):
    """The fields that `check` reads; `Event` and `Envelope` share them."""

    @property
    def type(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def idempotency_key(self) -> str: ...
    @property
    def ordering_key(self) -> str | None: ...
    @property
    def correlation_id(self) -> str | None: ...
    @property
    def occurred_at(self) -> datetime: ...
    @property
    def content_type(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, HeaderValue]: ...


def check(event: Checkable) -> None:
    """
    Check the fields of *event* that the broker and consumers rely on.

    Raises InvalidEvent, which names the field and never its value.
    """
    try:
        check_kind(event.type, event.routing_key, event.content_type)
    except TypeError:  # a value that cannot be a key of the cache
        check_kind.__wrapped__(event.type, event.routing_key, event.content_type)
    check_time("occurred_at", event.occurred_at)
    check_key("idempotency_key", event.idempotency_key)
    if event.ordering_key is not None:
        check_key("ordering_key", event.ordering_key)
    if event.correlation_id is not None:
        check_key("correlation_id", event.correlation_id)
    if len(event.body) > MAX_BODY_BYTES:
        raise InvalidEvent("payload", f"is larger than {MAX_BODY_BYTES} bytes")
    for name, value in event.headers.items():
        _check_header(name, value)


# Kinds of events are few, and a relay checks the kind of each event.
@lru_cache(maxsize=1024)
def check_kind(type_: str, routing_key: str, content_type: str) -> None:
    """Check the fields that many events share."""
    check_type(type_)
    check_key("routing_key", routing_key)
    if not _is_text(content_type) or not is_media_type(content_type):
        raise InvalidEvent("content_type", "must be a media type such as application/json")


def check_type(value: str) -> None:
    """Raise InvalidEvent unless *value* is words joined by dots, at most 128 characters."""
    if not _is_text(value) or not is_type(value):
        raise InvalidEvent("type", "must be words joined by dots, at most 128 characters")


# A service has few types, and a relay checks them for each event.
@lru_cache(maxsize=1024)
def is_type(value: str) -> bool:
    return _TYPE.fullmatch(value) is not None and len(value) <= 128  # noqa: PLR2004


def _is_text(value: object) -> bool:
    """Return whether *value* is a string: callers without a type checker may pass any object."""
    return isinstance(value, str)


def check_key(name: str, value: str) -> None:
    if not _is_text(value) or not value:
        raise InvalidEvent(name, "must be a string that is not empty")
    if (
        value.isascii()
        and value.isprintable()
        and " " not in value
        and len(value) <= MAX_KEY_BYTES
    ):
        return  # nearly all keys, without a regular expression
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(name, "is not valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise InvalidEvent(name, f"is longer than {MAX_KEY_BYTES} bytes")
    if _CONTROL_OR_SPACE.search(value):
        raise InvalidEvent(name, "must have no white space or control characters")


def check_exchange(value: str) -> None:
    """Raise InvalidEvent unless *value* names an exchange, or is empty for the default one."""
    if not _is_text(value) or not (value == "" or is_exchange_name(value)):
        raise InvalidEvent("exchange", "must be 1 to 200 letters, digits and _.:-, or empty")


def is_exchange_name(value: str) -> bool:
    """Return whether *value* names an exchange other than the default one."""
    return _EXCHANGE.fullmatch(value) is not None


def is_key(value: str) -> bool:
    """Return whether *value* can be a key: 1 to 255 bytes without white space."""
    try:
        check_key("key", value)
    except InvalidEvent:
        return False
    return True


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
                    f"headers.{name}",
                    f"is longer than {_MAX_HEADER_BYTES} bytes or has control characters",
                )
        case _:
            raise InvalidEvent(f"headers.{name}", "must be a string, an integer or a boolean")


def check_time(name: str, value: datetime) -> None:
    """Raise InvalidEvent unless AMQP can hold *value*; a day after 1970 is left for time zones."""
    zone = getattr(value, "tzinfo", None)
    if zone is not UTC and (zone is None or value.utcoffset() is None):
        raise InvalidEvent(name, "must be a datetime with a time zone")
    if not FIRST_TIME <= value < LAST_TIME:
        raise InvalidEvent(name, "must be after 1970 and before 9999")
