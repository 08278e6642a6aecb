"""
Points in time as the wire format writes them: relays write two for each event.
"""

from datetime import UTC, datetime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_OF_A_DAY = 86_400


def text(moment: datetime) -> str:
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


def seconds(moment: datetime) -> int:
    """Whole seconds from 1970 to *moment*; `timestamp` takes half as long again."""
    since = moment - EPOCH
    return since.days * _SECONDS_OF_A_DAY + since.seconds
