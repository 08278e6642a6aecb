"""
What values in a message mean that anybody may have written: something, or nothing.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from outbox.errors import UnreadableMessage

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LANE = re.compile(r"[0-9a-f]{32}")
_MAX_ATTEMPT = 1_000_000
_END_OF_TIME = 253_370_764_800
"""The year 9999, in seconds since 1970: there is no later one in every time zone."""
_SECONDS_OF_A_DAY = 86_400


def identity(message_id: str | None) -> UUID:
    """The id of a message. Raises UnreadableMessage with the code `no_identity`."""
    try:
        return UUID(message_id or "")
    except ValueError:
        raise UnreadableMessage("no_identity") from None


def text(value: Any, default: str) -> str:
    """*value* if it is text."""
    return value if isinstance(value, str) else default


def attempt(value: Any) -> int:
    """How often a message has failed before; 0 if *value* says nothing of it."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), _MAX_ATTEMPT)


def lane(value: Any) -> str | None:
    """The lane that *value* is, or None."""
    return value if isinstance(value, str) and _LANE.fullmatch(value) else None


def occurred_at(value: Any, timestamp: datetime | None) -> datetime:
    """The time in *value*, or else *timestamp*, or else now."""
    try:
        exact = datetime.fromisoformat(text(value, ""))
    except ValueError:
        exact = timestamp or datetime.now(UTC)
    return _with_zone(exact)


def recorded_at(seconds: Any, timestamp: datetime | None) -> datetime | None:
    """The time so many *seconds* after 1970, or else *timestamp*."""
    # A boolean is an int, too.
    if type(seconds) is int and 0 <= seconds < _END_OF_TIME:
        return EPOCH + timedelta(seconds=seconds)
    return None if timestamp is None else _with_zone(timestamp)


def _with_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def iso_text(moment: datetime) -> str:
    """*moment* in ISO 8601, in UTC and with microseconds."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # What `isoformat` makes of it, at two thirds of the cost.
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
