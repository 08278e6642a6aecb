"""
What becomes of a delivery: pure decisions after an attempt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from consumer.outcomes import Reject, Retry
from outbox.backoff import RetryPolicy

RETRIES_EXHAUSTED = "retries_exhausted"
NO_HANDLER = "no_handler"
TOO_OLD = "too_old_to_dedupe"
LEASE_EXPIRED = "lease_expired"

CODES = frozenset(
    {
        RETRIES_EXHAUSTED,
        NO_HANDLER,
        TOO_OLD,
        LEASE_EXPIRED,
        "malformed",
        "no_identity",
        "schema_unsupported",
        "content_encoding_unknown",
        "decompress_limit",
        "rejected",
        "expired",
        "delivery_limit",
        "maxlen",
        "dead_lettered",
    }
)
"""Every reason for giving up but those that handlers think of."""


@dataclass(frozen=True, slots=True)
class Done:
    """The effects are committed, by this attempt or, for a *duplicate*, by an earlier one."""

    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Filtered:
    """The handler does not want it."""


@dataclass(frozen=True, slots=True)
class Parked:
    """It waits in the database, behind another message of its lane or for its next attempt."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """
    Failed *attempt* times; try again after *delay*.

    *failed* is False if the handler was not called, because it is too early.
    """

    attempt: int
    delay: timedelta
    failed: bool = True


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else may be handling it: look again after *delay*. Nothing is counted."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Move it to `dead_letters`; *code* says why."""

    attempt: int
    code: str


Verdict: TypeAlias = Done | Filtered | Parked | TryAgain | Wait | GiveUp

DONE = Done()
DUPLICATE = Done(duplicate=True)
FILTERED = Filtered()
PARKED = Parked()


def has_failed(verdicts: Iterable[Verdict]) -> bool | None:
    """Whether a handler has failed with one of these; None if it was called for none of them."""
    if any(map(is_failure, verdicts)):
        return True
    return False if any(map(_was_called, verdicts)) else None


def _was_called(verdict: Verdict) -> bool:
    match verdict:
        case Done(duplicate=duplicate):
            return not duplicate
        case GiveUp(code=code):
            return code not in CODES
        case _:
            return False


def is_failure(verdict: Verdict) -> bool:
    """Whether a handler has failed, rather than refused its message or not been called."""
    match verdict:
        case TryAgain(failed=failed):
            return failed
        case GiveUp(code=code):
            return code == RETRIES_EXHAUSTED
        case _:
            return False


def after_failure(
    error: BaseException, attempt: int, policy: RetryPolicy, *, jitter: float
) -> TryAgain | GiveUp:
    """What becomes of a message whose attempt number *attempt* has failed with *error*."""
    if isinstance(error, Reject):
        return GiveUp(attempt, error.reason)
    delay = policy.delay(attempt, jitter=jitter)
    if delay is None:
        return GiveUp(attempt, RETRIES_EXHAUSTED)
    if isinstance(error, Retry) and error.after is not None:
        delay = error.after
    return TryAgain(attempt, delay)


def level_for(delay: timedelta, levels: Sequence[timedelta]) -> timedelta:
    """
    The one of *levels*, which are in order, to wait *delay* in.

    The shortest that is long enough; else the longest, after which the rest is waited for.
    """
    return next((level for level in levels if level >= delay), levels[-1])
