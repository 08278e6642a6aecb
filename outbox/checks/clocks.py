"""
How far the clocks of this host and of a server are apart.
"""

from datetime import timedelta

from outbox.checks.result import Check, CheckResult
from outbox.clock_difference import ClockDifference

WARNED_ABOVE = timedelta(seconds=1)
REFUSED_ABOVE = timedelta(seconds=60)


def of_database(difference: ClockDifference, *, affected: str) -> CheckResult:
    """Judge the clock of the database; *affected* says what uses the clock of this host."""
    return _judged(
        Check.DATABASE_CLOCK, "database", difference, affected, refused_above=REFUSED_ABOVE
    )


def of_broker(difference: ClockDifference) -> CheckResult:
    """Judge the clock of the broker, which decides about no message."""
    affected = "times in the broker's logs cannot be compared with ours"
    return _judged(Check.BROKER_CLOCK, "broker", difference, affected, refused_above=None)


def _judged(
    check: Check,
    server: str,
    difference: ClockDifference,
    affected: str,
    *,
    refused_above: timedelta | None,
) -> CheckResult:
    apart = abs(difference.certain)
    seconds = WARNED_ABOVE.total_seconds()
    if apart <= WARNED_ABOVE:
        return CheckResult.ok(
            check, f"the clocks of this host and of the {server} agree within {seconds:g} second"
        )
    direction = "ahead of" if difference.certain > timedelta(0) else "behind"
    text = (
        f"the clock of the {server} is {_shown(apart)} {direction} the clock of this host:"
        f" {affected}; set both by NTP"
    )
    is_error = refused_above is not None and apart > refused_above
    return CheckResult.error(check, text) if is_error else CheckResult.warning(check, text)


def _shown(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.1f} seconds" if seconds < 100 else str(timedelta(seconds=int(seconds)))  # noqa: PLR2004
