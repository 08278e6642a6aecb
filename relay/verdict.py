"""
What becomes of a claimed row: a pure decision.

    acked                          Delete
    unroutable, refused            Retry, or GiveUp when the policy says so
    rejected, malformed            GiveUp: trying again changes nothing
    unknown                        Leave: as if it had never been claimed
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, assert_never

from outbox.backoff import RetryPolicy
from outbox.transports.base import Outcome
from relay.row import Row


@dataclass(frozen=True, slots=True)
class Delete:
    """The broker has it."""

    row: Row


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again no earlier than after *delay*; *code* says why."""

    row: Row
    delay: timedelta
    code: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Move it to `dead_letters`; *code* says why."""

    row: Row
    code: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing is known, so nothing changes, and no attempt is counted."""

    row: Row


Verdict: TypeAlias = Delete | Retry | GiveUp | Leave


def decide(row: Row, outcome: Outcome, policy: RetryPolicy, *, jitter: float = 1.0) -> Verdict:
    """
    What becomes of *row* after *outcome*.

    *jitter* in [0, 1) is the policy's jitter.
    """
    match outcome:
        case Outcome.ACKED:
            return Delete(row)
        case Outcome.RETURNED | Outcome.NACKED:
            delay = policy.delay(row.attempts + 1, jitter=jitter)
            if delay is None:
                return GiveUp(row, outcome.value)
            return Retry(row, delay, outcome.value)
        case Outcome.REJECTED | Outcome.MALFORMED:
            return GiveUp(row, outcome.value)
        case Outcome.UNKNOWN:
            return Leave(row)
        case _:
            assert_never(outcome)
