"""
From an outbox row to its message in one step, as the relay makes it.

`by_envelope` checks each field of a row, and makes an envelope that is dropped at once. Nearly all
rows have no headers of their own, or only the trace of their producer, and keys of plain ASCII;
kinds of events are few. For those rows, what a row shares with others is checked once, and the
message is made without an envelope, in half the time. All other rows take the way by the envelope.
Both ways make the same message.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

from outbox.errors import InvalidEvent
from outbox.event import Priority
from outbox.payload import MAX_BODY_BYTES
from outbox.tracing import TRACEPARENT
from outbox.validation import FIRST_TIME, LAST_TIME, MAX_KEY_BYTES, check_kind
from outbox.wire import codec, row_codec
from outbox.wire.codec import WireMessage, wire_priority
from outbox.wire.headers import (
    EPOCH,
    IDEMPOTENCY_KEY_HEADER,
    LANE_HEADER,
    OCCURRED_AT_HEADER,
    RECORDED_AT_HEADER,
    SECONDS_OF_A_DAY,
    VERSION,
    VERSION_HEADER,
    epoch_seconds,
    iso_second,
)

LaneOf: TypeAlias = Callable[[str | None], str | None]
"""The lane of an ordering key; None if there is no key."""

_VALUES = itemgetter(
    *("event_id", "type", "body", "exchange", "routing_key", "ordering_key", "idempotency_key"),
    *("correlation_id", "priority", "headers", "content_type", "content_encoding"),
    *("occurred_at", "created_at"),
)
_NO_HEADERS = "{}"
_TRACE = re.compile(
    rf'\{{"{TRACEPARENT}": "([0-9a-f]{{2}}-[0-9a-f]{{32}}-[0-9a-f]{{16}}-[0-9a-f]{{2}})"\}}'
)
"""The headers of an event whose producer is traced, as both databases write them."""
_FIRST_SECOND, _LAST_SECOND = epoch_seconds(FIRST_TIME), epoch_seconds(LAST_TIME)
_PRIORITIES = {priority.value: wire_priority(priority) for priority in Priority}
_NORMAL = wire_priority(Priority.NORMAL)


def to_message(row: Mapping[str, Any], *, exchange: str, lane_of: LaneOf) -> WireMessage:
    """
    The message for an outbox *row*, checked because any program may write rows.

    *exchange* is the configured one, for rows without. Raises UnreadableMessage with the code
    `malformed`; its detail names the column.
    """
    # fmt: off
    (
        event_id, type_, body, own_exchange, routing_key, ordering_key, key,
        correlation_id, priority, headers, content_type, content_encoding,
        occurred_at, recorded_at,
    ) = _VALUES(row)
    # fmt: on
    trace = None
    if (
        (headers == _NO_HEADERS or (trace := _trace_of(headers)) is not None)
        and event_id is not None
        and row.get("expires_at") is None
        and row.get("reply_to") is None
        and _is_plain_key(key)
        and (ordering_key is None or _is_plain_key(ordering_key))
        and (correlation_id is None or _is_plain_key(correlation_id))
        and type(body) is bytes
        and len(body) <= MAX_BODY_BYTES
        and type(occurred_at) is type(recorded_at) is datetime
        and occurred_at.tzinfo is recorded_at.tzinfo is UTC
    ):
        try:
            sent_priority = _priority_of_kind(
                type_, routing_key, content_type, priority, own_exchange, content_encoding
            )
        except TypeError:  # a value that cannot be a key of the cache
            sent_priority = None
        since = occurred_at - EPOCH
        second = since.days * SECONDS_OF_A_DAY + since.seconds
        if sent_priority is not None and _FIRST_SECOND <= second < _LAST_SECOND:
            recorded = recorded_at - EPOCH
            own_headers = {
                VERSION_HEADER: VERSION,
                IDEMPOTENCY_KEY_HEADER: key,
                OCCURRED_AT_HEADER: f"{iso_second(second)}.{since.microseconds:06d}+00:00",
                RECORDED_AT_HEADER: recorded.days * SECONDS_OF_A_DAY + recorded.seconds,
            }
            if trace is not None:
                own_headers = {TRACEPARENT: trace, **own_headers}
            if ordering_key is not None:
                own_headers[LANE_HEADER] = lane_of(ordering_key)
                sent_priority = _NORMAL
            # By position: with names it takes three times as long.
            return WireMessage(
                exchange if own_exchange is None else own_exchange,
                routing_key,
                body,
                str(event_id),
                type_,
                correlation_id,
                occurred_at,
                content_type,
                content_encoding,
                sent_priority,
                own_headers,
            )
    return by_envelope(row, exchange=exchange, lane_of=lane_of)


def by_envelope(row: Mapping[str, Any], *, exchange: str, lane_of: LaneOf) -> WireMessage:
    """Like `to_message`, for every row, and slower."""
    envelope = row_codec.from_row(row)
    return codec.to_wire(envelope, exchange=exchange, lane=lane_of(envelope.ordering_key))


def _trace_of(headers: Any) -> str | None:
    """The trace that *headers* name if that is all they do."""
    found = _TRACE.fullmatch(headers) if type(headers) is str else None
    return None if found is None else found[1]


def _is_plain_key(value: Any) -> bool:
    """Whether *value* is a valid key for a reason that is cheap to see; most keys are."""
    return (
        type(value) is str
        and value.isascii()
        and value.isprintable()
        and " " not in value
        and 0 < len(value) <= MAX_KEY_BYTES
    )


# Kinds of events are few, and a relay checks the kind of each event.
@lru_cache(maxsize=1024)
def _priority_of_kind(  # noqa: PLR0917 - by name it would be cached at a higher cost
    type_: Any,
    routing_key: Any,
    content_type: Any,
    priority: Any,
    exchange: Any,
    content_encoding: Any,
) -> int | None:
    """The priority of messages of this kind, or None if some of the fields need a closer look."""
    try:
        check_kind(type_, routing_key, content_type)
    except InvalidEvent:
        return None
    texts_are_plain = all(
        text is None or (isinstance(text, str) and text.isascii())
        for text in (exchange, content_encoding)
    )
    return _PRIORITIES.get(priority) if texts_are_plain else None
