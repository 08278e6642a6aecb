"""
What becomes of a delivery: a pure decision after an attempt.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from outbox.backoff import RetryPolicy

RETRIES_EXHAUSTED = "retries_exhausted"
NO_HANDLER = "no_handler"


@dataclass(frozen=True, slots=True)
class Done:
    """The effects are committed, by this attempt or, for a *duplicate*, by an earlier one."""

    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed attempt number *attempt*; try again after *delay*."""

    attempt: int
    delay: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Move it to `dead_letters`; *code* says why."""

    attempt: int
    code: str


Verdict: TypeAlias = Done | Retry | GiveUp


def after_failure(attempt: int, policy: RetryPolicy) -> Verdict:
    """What becomes of a message whose attempt number *attempt* has failed."""
    delay = policy.delay(attempt)
    if delay is None:
        return GiveUp(attempt, RETRIES_EXHAUSTED)
    return Retry(attempt, delay)
