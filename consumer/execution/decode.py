"""
From a delivery to what a handler is called with, or to why it is not: pure.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from consumer import republish
from consumer.handler import Handler
from consumer.message import Message, open_message
from consumer.outcomes import LONGEST_WAIT
from consumer.verdict import FILTERED, NO_HANDLER, TOO_OLD, GiveUp, TryAgain, Verdict, Wait
from outbox.errors import UnreadableMessage
from outbox.transports.base import Delivery
from outbox.wire import codec
from outbox.wire.envelope import Envelope

_HELD_FOR = timedelta(seconds=5)
"""A message that comes too early by less than this waits in the process."""


# Not frozen, which would make it three times as expensive to make.
@dataclass(slots=True)
class Attempt:
    """Attempt *number*, from 1 on, at *delivery*."""

    delivery: Delivery
    envelope: Envelope
    message: Message[Any]
    number: int

    @property
    def key(self) -> str:
        """What it is deduplicated by."""
        return self.envelope.idempotency_key


def decode_delivery(
    delivery: Delivery, handler: Handler | None, *, now: datetime, oldest: datetime
) -> Attempt | Verdict:
    """
    What *handler* is to be called with, or what becomes of *delivery* without it.

    A message that was recorded before *oldest* may have been handled and forgotten.
    """
    number = republish.attempt_of(delivery.message) + 1
    if early := _too_early(delivery, now):
        return early
    try:
        attempt = _read(delivery, handler, number, oldest=oldest)
    except UnreadableMessage as error:
        return GiveUp(number, error.code)
    if handler is not None and handler.filter is not None and not handler.filter(attempt.message):
        return FILTERED
    return attempt


def is_too_old(decoded: Attempt | Verdict) -> bool:
    """Whether age is the only reason why the message is given up."""
    return isinstance(decoded, GiveUp) and decoded.code == TOO_OLD


def _read(
    delivery: Delivery, handler: Handler | None, number: int, *, oldest: datetime
) -> Attempt:
    """Raises UnreadableMessage with the reason code for which it is to be given up."""
    if delivery.decode_error is not None:
        raise UnreadableMessage(delivery.decode_error)
    envelope = codec.from_wire(delivery.message)
    if handler is None:
        raise UnreadableMessage(NO_HANDLER)
    message = open_message(
        envelope, handler.model, attempt=number, redelivered=delivery.redelivered
    )
    if envelope.recorded_at is not None and envelope.recorded_at < oldest:
        raise UnreadableMessage(TOO_OLD)
    return Attempt(delivery, envelope, message, number)


def _too_early(delivery: Delivery, now: datetime) -> Wait | TryAgain | None:
    """For a copy whose time has not come, although no retry queue keeps it any longer."""
    not_before = republish.not_before_of(delivery.message)
    if not_before is None or not now < not_before <= now + LONGEST_WAIT:
        # Nobody of ours asks for more: somebody else has written it.
        return None
    left = not_before - now
    if left < _HELD_FOR:
        return Wait(left)
    return TryAgain(republish.attempt_of(delivery.message), left, failed=False)
