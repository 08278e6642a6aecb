"""
The verdict on a claimed row after its publish: a pure decision.

    acked                    Delete
    unroutable, refused      Retry, or DeadLetter when the policy allows no further attempt
    rejected, malformed      DeadLetter: another attempt would fail in the same way
    unknown                  Leave: as if the row had never been claimed
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, assert_never

from outbox.backoff import RetryPolicy
from outbox.transports.base import Outcome
from relay.row import Row


@dataclass(frozen=True, slots=True)
class Delete:
    """The broker has confirmed the message: delete the row."""

    row: Row


@dataclass(frozen=True, slots=True)
class Retry:
    """Publish the row again no earlier than after *delay*; *code* is the reason."""

    row: Row
    delay: timedelta
    code: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Move the row to `dead_letters`; *code* is the reason."""

    row: Row
    code: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The outcome is unknown: the row does not change, and no attempt is counted."""

    row: Row


Verdict: TypeAlias = Delete | Retry | DeadLetter | Leave


def decide(row: Row, outcome: Outcome, policy: RetryPolicy, *, jitter: float = 1.0) -> Verdict:
    """
    The verdict on *row* after *outcome*.

    *jitter* in [0, 1) is passed to the policy.
    """
    match outcome:
        case Outcome.ACKED:
            return Delete(row)
        case Outcome.RETURNED | Outcome.NACKED:
            delay = policy.delay(row.attempts + 1, jitter=jitter)
            if delay is None:
                return DeadLetter(row, outcome.value)
            return Retry(row, delay, outcome.value)
        case Outcome.REJECTED | Outcome.MALFORMED:
            return DeadLetter(row, outcome.value)
        case Outcome.UNKNOWN:
            return Leave(row)
        case _:
            assert_never(outcome)
