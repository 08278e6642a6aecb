"""
The verdict on a claimed row after its publish: a pure decision.

    acked                    Delete
    expired                  Expire: the row in `replies` stays, and says so to its caller
    unroutable, refused      Retry, or DeadLetter when the policy allows no further attempt
    rejected, malformed      DeadLetter: another attempt would fail in the same way
    plaintext_refused        DeadLetter
    unknown                  Leave: as if the row had never been claimed
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, assert_never

from outbox.backoff import RetryPolicy
from outbox.transports.base import Outcome
from relay.row import Row


# Not frozen for the reason that Envelope is not.
@dataclass(slots=True)
class Delete:
    """The broker has confirmed the message: delete the row."""

    row: Row


@dataclass(slots=True)
class Expire:
    """The deadline of the request has passed: delete the row, which was not published."""

    row: Row


@dataclass(slots=True)
class Retry:
    """Publish the row again no earlier than after *delay*; *code* is the reason."""

    row: Row
    delay: timedelta
    code: str


@dataclass(slots=True)
class DeadLetter:
    """Move the row to `dead_letters`; *code* is the reason."""

    row: Row
    code: str


@dataclass(slots=True)
class Leave:
    """The outcome is unknown: the row does not change, and no attempt is counted."""

    row: Row


@dataclass(slots=True)
class Quarantine:
    """
    The database has refused each change of the row but this one: it waits for a day.

    No decision makes it; the storage does, for a row whose verdict cannot be applied.
    """

    row: Row


Verdict: TypeAlias = Delete | Expire | Retry | DeadLetter | Leave | Quarantine


def decide(
    row: Row,
    outcome: Outcome,
    policy: RetryPolicy,
    *,
    refused: RetryPolicy | None = None,
    jitter: float = 1.0,
) -> Verdict:
    """
    The verdict on *row* after *outcome*.

    *policy* is for unroutable events, *refused* for refused ones if it differs. *jitter* in [0, 1)
    is passed to the policy.
    """
    match outcome:
        case Outcome.ACKED:
            return Delete(row)
        case Outcome.EXPIRED:
            return Expire(row)
        case Outcome.RETURNED | Outcome.NACKED:
            chosen = refused if refused and outcome is Outcome.NACKED else policy
            delay = chosen.delay(row.attempts + 1, jitter=jitter)
            if delay is None:
                return DeadLetter(row, outcome.value)
            return Retry(row, delay, outcome.value)
        case Outcome.REJECTED | Outcome.MALFORMED | Outcome.PLAIN:
            return DeadLetter(row, outcome.value)
        case Outcome.UNKNOWN:
            return Leave(row)
        case _:
            assert_never(outcome)
