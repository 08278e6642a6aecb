"""
The headers of the wire format: their names, and one value that holds them all.

    header                      value
    x-outbox-version            1
    x-outbox-idempotency-key    the key that consumers deduplicate by
    x-outbox-occurred-at        when the event occurred, ISO 8601 in UTC, with microseconds
    x-outbox-recorded-at        when the outbox row was inserted, in whole seconds since 1970
    x-outbox-lane               keyed hash of the ordering key, 32 hex digits; absent without a key
    x-outbox-expires            of a request: its deadline, ISO 8601 in UTC, with microseconds
    x-outbox-attempt            on a retry copy: the number of failed attempts
    x-outbox-exchange           on a copy: the exchange that the event was first published to
    x-outbox-routing-key        on a copy: the routing key that it was first published with
    x-outbox-priority           on a copy in a retry queue: the priority of the message, 0 to 255
    x-outbox-requeues           on a requeued copy: how often it was requeued from the dead queue
    x-outbox-not-before         on a copy that waits longer than any retry queue: until when
    x-outbox-unsupported-since  on a copy that no consumer could handle yet: since when it waits
    x-outbox-replay             on a replayed copy and its retries: the run, see `audit_log`
    x-outbox-drain              on a message that is no event: the end of a partition

The ordering key itself is never on the wire. A delivery's headers are parsed once, into `Headers`.
Any publisher may write any value here, so a value that makes no sense counts as absent.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from outbox.validation import FIRST_TIME, LAST_TIME

VERSION = 1

VERSION_HEADER = "x-outbox-version"
IDEMPOTENCY_KEY_HEADER = "x-outbox-idempotency-key"
OCCURRED_AT_HEADER = "x-outbox-occurred-at"
RECORDED_AT_HEADER = "x-outbox-recorded-at"
LANE_HEADER = "x-outbox-lane"
EXPIRES_HEADER = "x-outbox-expires"
ATTEMPT_HEADER = "x-outbox-attempt"
EXCHANGE_HEADER = "x-outbox-exchange"
ROUTING_KEY_HEADER = "x-outbox-routing-key"
REQUEUES_HEADER = "x-outbox-requeues"
NOT_BEFORE_HEADER = "x-outbox-not-before"
UNSUPPORTED_SINCE_HEADER = "x-outbox-unsupported-since"
REPLAY_HEADER = "x-outbox-replay"
PRIORITY_HEADER = "x-outbox-priority"
DRAIN_HEADER = "x-outbox-drain"

_OF_COPIES = frozenset(
    {
        ATTEMPT_HEADER,
        REQUEUES_HEADER,
        NOT_BEFORE_HEADER,
        UNSUPPORTED_SINCE_HEADER,
        REPLAY_HEADER,
        EXCHANGE_HEADER,
        ROUTING_KEY_HEADER,
        PRIORITY_HEADER,
        DRAIN_HEADER,
    }
)
"""The headers that no message has when it is first published."""

_NOT_OF_ALL = _OF_COPIES | {EXPIRES_HEADER}

NAMES = _OF_COPIES | {
    VERSION_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    OCCURRED_AT_HEADER,
    RECORDED_AT_HEADER,
    LANE_HEADER,
    EXPIRES_HEADER,
}
"""All headers of the wire format."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LANE = re.compile(r"[0-9a-f]{32}")
_MAX_COUNT = 1_000_000
_MAX_PRIORITY = 255
_END_OF_TIME = 253_370_764_800
"""The year 9999, in seconds since 1970: the latest that every time zone can express."""
SECONDS_OF_A_DAY = 86_400


# A tuple is as immutable as a frozen dataclass, at a third of the cost; each delivery makes one.
class Headers(NamedTuple):
    """
    The headers of one message that belong to the wire format; None where absent.

    Args:
        is_supported: Whether this version can read the message.
        is_newer: Whether a later version of this project has written it.
        failed_attempts: How often the message has failed before.
        requeues: How often it was put back after the broker had dead-lettered it.
        not_before: The earliest time at which it may be handled.
        unsupported_since: When a consumer first had no handler for it.
        replay: The run that replayed it.
        exchange: Where it was first published; likewise *routing_key*.
        priority: Its priority, if the property has another one while it waits for a retry.
        expires_at: The deadline of a request; later its handler is not called.

    """

    is_supported: bool = True
    is_newer: bool = False
    idempotency_key: str | None = None
    occurred_at: datetime | None = None
    recorded_at: datetime | None = None
    lane: str | None = None
    failed_attempts: int = 0
    requeues: int = 0
    not_before: datetime | None = None
    unsupported_since: datetime | None = None
    replay: UUID | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    expires_at: datetime | None = None


def parse(headers: Mapping[str, Any]) -> Headers:
    """The wire format's part of *headers*; never raises."""
    get = headers.get
    version = get(VERSION_HEADER, VERSION)
    is_newer = type(version) is int and version > VERSION
    key = _text(get(IDEMPOTENCY_KEY_HEADER)) or None
    occurred_at, recorded_at = _time(get(OCCURRED_AT_HEADER)), _epoch_time(get(RECORDED_AT_HEADER))
    lane = _lane(get(LANE_HEADER))
    if _NOT_OF_ALL.isdisjoint(headers):
        # Nearly all messages, at half of the cost.
        return Headers(version == VERSION, is_newer, key, occurred_at, recorded_at, lane)
    return Headers(
        is_supported=version == VERSION,
        is_newer=is_newer,
        idempotency_key=key,
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        lane=lane,
        failed_attempts=_count(get(ATTEMPT_HEADER)),
        requeues=_count(get(REQUEUES_HEADER)),
        not_before=_zoned_time(get(NOT_BEFORE_HEADER)),
        unsupported_since=_zoned_time(get(UNSUPPORTED_SINCE_HEADER)),
        replay=_uuid(get(REPLAY_HEADER)),
        exchange=_text(get(EXCHANGE_HEADER)),
        routing_key=_text(get(ROUTING_KEY_HEADER)),
        priority=octet(get(PRIORITY_HEADER)),
        expires_at=_zoned_time(get(EXPIRES_HEADER)),
    )


def event_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Of *headers* those of the event itself, with values that an event may have."""
    return {
        name: value
        for name, value in headers.items()
        if not name.startswith("x-") and isinstance(value, str | int | bool)
    }


def iso_text(moment: datetime) -> str:
    """*moment* in ISO 8601, in UTC and with microseconds."""
    since = moment - EPOCH
    whole = iso_second(since.days * SECONDS_OF_A_DAY + since.seconds)
    return f"{whole}.{since.microseconds:06d}+00:00"


# Many events occur in one second, and `isoformat` costs four times as much as the rest.
@lru_cache(maxsize=4096)
def iso_second(seconds: int) -> str:
    """The second that begins *seconds* after 1970, without its time zone."""
    return (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def epoch_seconds(moment: datetime) -> int:
    """Whole seconds from 1970 to *moment*; `timestamp` takes half as long again."""
    since = moment - EPOCH
    return since.days * SECONDS_OF_A_DAY + since.seconds


def in_utc_unless_zoned(moment: datetime) -> datetime:
    """*moment*, in UTC if it names no time zone."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def possible_time(moment: datetime) -> datetime | None:
    """*moment*, in UTC if it names no time zone; None if it is no time of an event, such as 0."""
    zoned = in_utc_unless_zoned(moment)
    return zoned if FIRST_TIME <= zoned < LAST_TIME else None


def octet(value: Any) -> int | None:
    """*value* if it is a number from 0 to 255, else None."""
    return value if type(value) is int and 0 <= value <= _MAX_PRIORITY else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _lane(value: Any) -> str | None:
    return value if isinstance(value, str) and _LANE.fullmatch(value) else None


def _count(value: Any) -> int:
    # A boolean is an int, too.
    return min(max(value, 0), _MAX_COUNT) if type(value) is int else 0


def _time(value: Any) -> datetime | None:
    try:
        return possible_time(datetime.fromisoformat(value)) if value else None
    except (TypeError, ValueError):
        return None


def _zoned_time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if value else None
    except (TypeError, ValueError):
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _epoch_time(seconds: Any) -> datetime | None:
    if type(seconds) is int and 0 <= seconds < _END_OF_TIME:
        return EPOCH + timedelta(seconds=seconds)
    return None


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value) if value else None
    except (TypeError, ValueError, AttributeError):
        return None
