"""
The outcome of handling all that was due: values, no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from sqlalchemy.exc import DBAPIError

from consumer.verdict import (
    CODES,
    RETRIES_EXHAUSTED,
    DeadLetter,
    Done,
    Erased,
    Expired,
    Filtered,
    Parked,
    TryAgain,
    Verdict,
    Wait,
    status_of,
)
from outbox.errors import UnreadableMessage
from outbox.testing import RecordedEvent

TABLES = "running(…, tables=Base.metadata) creates the tables of your application"
_NO_TABLE = ("no such table", "UndefinedTable")
FAILED = "failures of relay and consumers"


class Settled(StrEnum):
    """How a message was settled."""

    HANDLED = "handled"
    """The handler returned, and its effects are committed."""
    DUPLICATE = "duplicate"
    """Its idempotency key was completed before: the handler was not called."""
    FILTERED = "filtered"
    """The handler's filter did not accept it."""
    ERASED = "erased"
    """Its subject was erased: the handler was not called."""
    EXPIRED = "expired"
    """It is a request whose deadline has passed: the handler was not called."""
    RETRY = "retry"
    """The handler failed, and the message waits for its next attempt."""
    PARKED = "parked"
    """It waits in the database, behind others of its ordering key or for its next attempt."""
    DEAD_LETTER = "dead_letter"
    """It is in `dead_letters`."""
    WAITING = "waiting"
    """The handler must not be called yet: another process holds the lease of the message."""


@dataclass(frozen=True, slots=True)
class SettledMessage:
    """
    A message of this event *type*; *reason* is the reason code of a dead letter.

    *id* is that of the event, or of the message of another publisher.
    """

    consumer: str
    type: str | None
    settled: Settled
    reason: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """
    An *error* of a handler at this *attempt*, with its traceback.

    A message that was dead-lettered without a call of its handler has an UnreadableMessage. The
    *type* of a hook that failed is its name, `on_failure` or `on_dead_letter`. *consumer* is
    `relay` for an event that the relay could not publish.
    """

    consumer: str
    type: str | None
    attempt: int
    error: BaseException
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """
    What relay and consumers have done, in order.

    Args:
        published: The events that the relay has published.
        unrouted: Those of them whose routing key no binding of a consumer matches.
        messages: The messages that were settled.
        failures: The failed attempts.

    """

    published: Sequence[RecordedEvent] = ()
    unrouted: Sequence[RecordedEvent] = ()
    messages: Sequence[SettledMessage] = ()
    failures: Sequence[FailedAttempt] = field(default=(), repr=False)

    @property
    def handled(self) -> list[SettledMessage]:
        """The messages whose handlers have returned."""
        return self._settled(Settled.HANDLED)

    @property
    def duplicates(self) -> list[SettledMessage]:
        """The messages that were duplicates."""
        return self._settled(Settled.DUPLICATE)

    @property
    def filtered(self) -> list[SettledMessage]:
        """The messages that a filter did not accept."""
        return self._settled(Settled.FILTERED)

    @property
    def erased(self) -> list[SettledMessage]:
        """The messages whose subject was erased."""
        return self._settled(Settled.ERASED)

    @property
    def expired(self) -> list[SettledMessage]:
        """The requests whose deadline had passed."""
        return self._settled(Settled.EXPIRED)

    @property
    def retries(self) -> list[SettledMessage]:
        """The messages that wait for their next attempt."""
        return self._settled(Settled.RETRY)

    @property
    def parked(self) -> list[SettledMessage]:
        """The messages that wait in the database."""
        return self._settled(Settled.PARKED)

    @property
    def dead_letters(self) -> list[SettledMessage]:
        """The messages that were dead-lettered."""
        return self._settled(Settled.DEAD_LETTER)

    def raise_failures(self) -> None:
        """Raise an ExceptionGroup of all failures, if there are any."""
        __tracebackhide__ = True
        if not self.failures:
            return
        raise BaseExceptionGroup(FAILED, [explained(each.error) for each in self.failures])

    def _settled(self, settled: Settled) -> list[SettledMessage]:
        return [each for each in self.messages if each.settled is settled]


def explained(error: BaseException) -> BaseException:
    """*error*, with a note if a table of the application does not exist."""
    is_without_table = isinstance(error, DBAPIError) and any(
        each in str(error) for each in _NO_TABLE
    )
    if is_without_table and TABLES not in getattr(error, "__notes__", ()):
        error.add_note(TABLES)
    return error


def settled_by(verdict: Verdict) -> Settled:
    """How *verdict* settles its message."""
    match verdict:
        case Done(duplicate=duplicate):
            return Settled.DUPLICATE if duplicate else Settled.HANDLED
        case Filtered() | Erased() | Expired() | Parked():
            return Settled(status_of(verdict))
        case TryAgain():
            return Settled.RETRY
        case DeadLetter():
            return Settled.DEAD_LETTER
        case Wait():
            return Settled.WAITING
        case _:
            assert_never(verdict)


def error_of(verdict: Verdict) -> UnreadableMessage | None:
    """The error for a message that *verdict* dead-letters without a call of its handler."""
    if not isinstance(verdict, DeadLetter):
        return None
    if verdict.code not in CODES - {RETRIES_EXHAUSTED}:
        return None
    return UnreadableMessage(verdict.code, verdict.detail)
