"""
The headers of the wire format: their names, and one value that holds them all.

    header                      value
    x-outbox-version            1
    x-outbox-idempotency-key    the key that consumers deduplicate by
    x-outbox-occurred-at        when the event occurred, ISO 8601 in UTC, with microseconds
    x-outbox-recorded-at        when the outbox row was inserted, in whole seconds since 1970
    x-outbox-lane               keyed hash of the ordering key, 32 hex digits; absent without a key
    x-outbox-attempt            on a retry copy: the number of failed attempts
    x-outbox-exchange           on a copy: the exchange that the event was first published to
    x-outbox-routing-key        on a copy: the routing key that it was first published with
    x-outbox-requeues           on a requeued copy: how often it was requeued from the dead queue
    x-outbox-not-before         on a copy that waits longer than any retry queue: until when
    x-outbox-replay             on a replayed copy and its retries: the run, see `audit_log`

The ordering key itself is never on the wire. A delivery's headers are parsed once, into `Headers`.
Any publisher may write any value here, so a value that makes no sense counts as absent.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

VERSION = 1

VERSION_HEADER = "x-outbox-version"
IDEMPOTENCY_KEY_HEADER = "x-outbox-idempotency-key"
OCCURRED_AT_HEADER = "x-outbox-occurred-at"
RECORDED_AT_HEADER = "x-outbox-recorded-at"
LANE_HEADER = "x-outbox-lane"
ATTEMPT_HEADER = "x-outbox-attempt"
EXCHANGE_HEADER = "x-outbox-exchange"
ROUTING_KEY_HEADER = "x-outbox-routing-key"
REQUEUES_HEADER = "x-outbox-requeues"
NOT_BEFORE_HEADER = "x-outbox-not-before"
REPLAY_HEADER = "x-outbox-replay"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LANE = re.compile(r"[0-9a-f]{32}")
_MAX_COUNT = 1_000_000
_END_OF_TIME = 253_370_764_800
"""The year 9999, in seconds since 1970: the latest that every time zone can express."""
_SECONDS_OF_A_DAY = 86_400


# A tuple is as immutable as a frozen dataclass, at a third of the cost; each delivery makes one.
class Headers(NamedTuple):
    """
    The headers of one message that belong to the wire format; None where absent.

    Args:
        is_supported: Whether this version can read the message.
        failed_attempts: How often the message has failed before.
        requeues: How often it was put back after the broker had dead-lettered it.
        not_before: The earliest time at which it may be handled.
        replay: The run that replayed it.
        exchange: Where it was first published; likewise *routing_key*.

    """

    is_supported: bool = True
    idempotency_key: str | None = None
    occurred_at: datetime | None = None
    recorded_at: datetime | None = None
    lane: str | None = None
    failed_attempts: int = 0
    requeues: int = 0
    not_before: datetime | None = None
    replay: UUID | None = None
    exchange: str | None = None
    routing_key: str | None = None


def parse(headers: Mapping[str, Any]) -> Headers:
    """The wire format's part of *headers*; never raises."""
    get = headers.get
    return Headers(
        is_supported=get(VERSION_HEADER, VERSION) == VERSION,
        idempotency_key=_text(get(IDEMPOTENCY_KEY_HEADER)),
        occurred_at=_time(get(OCCURRED_AT_HEADER)),
        recorded_at=_epoch_time(get(RECORDED_AT_HEADER)),
        lane=_lane(get(LANE_HEADER)),
        failed_attempts=_count(get(ATTEMPT_HEADER)),
        requeues=_count(get(REQUEUES_HEADER)),
        not_before=_zoned_time(get(NOT_BEFORE_HEADER)),
        replay=_uuid(get(REPLAY_HEADER)),
        exchange=_text(get(EXCHANGE_HEADER)),
        routing_key=_text(get(ROUTING_KEY_HEADER)),
    )


def iso_text(moment: datetime) -> str:
    """*moment* in ISO 8601, in UTC and with microseconds."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # The text of `isoformat`, at two thirds of its cost: a relay writes one for each event.
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06d+00:00" % (  # noqa: UP031
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        moment.microsecond,
    )


def epoch_seconds(moment: datetime) -> int:
    """Whole seconds from 1970 to *moment*; `timestamp` takes half as long again."""
    since = moment - EPOCH
    return since.days * _SECONDS_OF_A_DAY + since.seconds


def in_utc_unless_zoned(moment: datetime) -> datetime:
    """*moment*, in UTC if it names no time zone."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _lane(value: Any) -> str | None:
    return value if isinstance(value, str) and _LANE.fullmatch(value) else None


def _count(value: Any) -> int:
    # A boolean is an int, too.
    return min(max(value, 0), _MAX_COUNT) if type(value) is int else 0


def _time(value: Any) -> datetime | None:
    try:
        return in_utc_unless_zoned(datetime.fromisoformat(value)) if value else None
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
