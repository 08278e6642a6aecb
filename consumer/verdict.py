"""
The verdict on a delivery after an attempt: pure decisions.

    Done         the effects are committed, now or by an earlier attempt: ack
    Filtered     the handler's filter does not accept the message: ack
    Erased       the subject of the message was erased: ack
    Expired      the deadline of the request has passed: ack
    Parked       the message waits in the database, in its lane: ack
    TryAgain     publish a copy to a retry queue, or park it in its lane: then ack
    DeadLetter   move the message to `dead_letters`: then ack
    Wait         keep the delivery, and handle it later
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias, assert_never

from consumer.message import Message
from consumer.outcomes import Reject, Retry
from outbox.backoff import RetryPolicy
from outbox.dead_letters.expired_body import BODY_EXPIRED
from outbox.runtime.error_summary import ErrorSummary
from outbox.wire.compression import ZSTD_MISSING
from outbox.wire.encrypted import KEY_UNKNOWN, NOT_AUTHENTIC, PLAINTEXT_REFUSED

RETRIES_EXHAUSTED = "retries_exhausted"
NO_HANDLER = "no_handler"
TOO_OLD = "too_old_to_dedupe"
LEASE_EXPIRED = "lease_expired"
NO_TIME_LEFT = "no_time_left"
DELIVERY_LIMIT = "delivery_limit"

CODES = frozenset(
    {
        RETRIES_EXHAUSTED,
        NO_HANDLER,
        TOO_OLD,
        LEASE_EXPIRED,
        NO_TIME_LEFT,
        "malformed",
        "no_identity",
        "schema_unsupported",
        "content_encoding_unknown",
        ZSTD_MISSING,
        "decompress_limit",
        "cloudevent_invalid",
        "rejected",
        "expired",
        KEY_UNKNOWN,
        NOT_AUTHENTIC,
        BODY_EXPIRED,
        PLAINTEXT_REFUSED,
        DELIVERY_LIMIT,
        "maxlen",
        "dead_lettered",
    }
)
"""All reasons for dead-lettering, except those that handlers raise with `Reject`."""


@dataclass(frozen=True, slots=True)
class Done:
    """The effects are committed, by this attempt or, for a *duplicate*, by an earlier one."""

    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Filtered:
    """The handler's filter does not accept the message."""


@dataclass(frozen=True, slots=True)
class Erased:
    """The subject of the message was erased, so that no key decrypts it any more."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline of the request has passed, and its caller does not wait any more."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The message waits in the database, for its next attempt or behind others of its lane."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """
    The message has failed *attempt* times: retry it after *delay*.

    *failed* is False if the handler was not called, because the message came too early, or because
    *unsupported_since* then no process could handle it, for the reason code *unsupported_because*;
    *unsupported_detail* names the part, such as the id of a key.
    *summary* is that of its error.
    """

    attempt: int
    delay: timedelta
    failed: bool = True
    unsupported_since: datetime | None = None
    unsupported_because: str = field(default="", compare=False)
    unsupported_detail: str = field(default="", compare=False)
    summary: ErrorSummary | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Handle the delivery again after *delay*; no attempt is counted."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    Move the message to `dead_letters`; *code* is the reason.

    *detail* names the part that could not be read, such as a field of the model. *message* is None
    if it was not read, *error* and its *summary* if no handler has failed.
    """

    attempt: int
    code: str
    detail: str = field(default="", compare=False)
    message: Message[Any] | None = field(default=None, compare=False, repr=False)
    error: BaseException | None = field(default=None, compare=False, repr=False)
    summary: ErrorSummary | None = field(default=None, compare=False)


Verdict: TypeAlias = Done | Filtered | Erased | Expired | Parked | TryAgain | Wait | DeadLetter

DONE = Done()
DUPLICATE = Done(duplicate=True)
FILTERED = Filtered()
ERASED = Erased()
EXPIRED = Expired()
PARKED = Parked()
WAIT = Wait(timedelta(0))


def has_failed(verdicts: Iterable[Verdict]) -> bool | None:
    """Whether a handler has failed, by its *verdicts*; None if it was not called at all."""
    if any(map(is_failure, verdicts)):
        return True
    return False if any(map(_was_called, verdicts)) else None


def _was_called(verdict: Verdict) -> bool:
    match verdict:
        case Done(duplicate=duplicate):
            return not duplicate
        case DeadLetter(code=code):
            return code not in CODES
        case _:
            return False


def is_failure(verdict: Verdict) -> bool:
    """Whether a handler has failed; to reject the message, or not to be called, is no failure."""
    match verdict:
        case TryAgain(failed=failed):
            return failed
        case DeadLetter(code=code):
            return code in {RETRIES_EXHAUSTED, NO_TIME_LEFT}
        case _:
            return False


def after_failure(
    error: BaseException,
    attempt: int,
    policy: RetryPolicy,
    *,
    jitter: float,
    message: Message[Any] | None = None,
    summary: ErrorSummary | None = None,
    left: timedelta | None = None,
) -> TryAgain | DeadLetter:
    """
    The verdict on a *message* whose attempt number *attempt* has failed with *error*.

    *summary* is the part of the error that is recorded. *left* is the time until the deadline of a
    request: no attempt is made after it, so its caller gets the failure while it waits.
    """
    delay = policy.delay(attempt, jitter=jitter)
    if isinstance(error, Reject) or delay is None:
        code = error.reason if isinstance(error, Reject) else RETRIES_EXHAUSTED
        return DeadLetter(attempt, code, message=message, error=error, summary=summary)
    if isinstance(error, Retry) and error.after is not None:
        delay = error.after
    if left is not None and delay >= left:
        return DeadLetter(attempt, NO_TIME_LEFT, message=message, error=error, summary=summary)
    return TryAgain(attempt, delay, summary=summary)


def retry_queue_delay(delay: timedelta, delays: Sequence[timedelta]) -> timedelta:
    """
    The delay of the retry queue for a wait of *delay*; *delays* are in ascending order.

    It is the shortest that is long enough; else the longest, after which the message waits again.
    """
    return next((each for each in delays if each >= delay), delays[-1])


_STATUS = {Filtered: "filtered", Erased: "erased", Expired: "expired", Parked: "parked"}


def status_of(verdict: Verdict) -> str:
    """The status of a delivery in metrics."""
    match verdict:
        case Done(duplicate=duplicate):
            return "duplicate" if duplicate else "success"
        case Filtered() | Erased() | Expired() | Parked():
            return _STATUS[type(verdict)]
        case TryAgain(failed=failed, unsupported_since=since):
            return "retry" if failed else "early" if since is None else "unsupported"
        case DeadLetter():
            return "failed"
        case Wait():
            return "waiting"
        case _:
            assert_never(verdict)
