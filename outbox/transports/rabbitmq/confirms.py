"""
What RabbitMQ can answer to a publish, and what each answer means.
"""

import struct
from collections.abc import Sequence
from typing import TypeAlias

import aiormq
from pamqp.commands import Basic

from outbox.transports.base import Outcome

Confirm: TypeAlias = Basic.Ack | Basic.Nack | Basic.Reject | BaseException | None
"""A frame of the broker, or the error in its place."""

CANNOT_BE_WRITTEN = (TypeError, ValueError, ArithmeticError, struct.error)
"""What the client raises for a message that it cannot put into frames."""

# What says that a message, and not the network, ended the channel. Publishes that are written to a
# channel after the broker has closed it end the connection too, as an error of the protocol.
_CULPRIT_SHOWN = (
    aiormq.exceptions.ChannelClosed,
    aiormq.exceptions.ConnectionChannelError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
)
_ANSWERED = (
    Basic.Ack,
    Basic.Nack,
    Basic.Reject,
    aiormq.exceptions.PublishError,
    aiormq.exceptions.DeliveryError,
    *CANNOT_BE_WRITTEN,
)


def answered(answer: Confirm) -> bool:
    """Whether *answer* is about this message alone, and final."""
    return isinstance(answer, _ANSWERED)


def refused(answer: Confirm) -> bool:
    """
    Whether the broker has taken note of the message, and does not take it.

    What it returns for want of a queue it would return on any connection.
    """
    errors = aiormq.exceptions
    returned = isinstance(answer, errors.PublishError)
    return not returned and isinstance(answer, (Basic.Nack, Basic.Reject, errors.DeliveryError))


def shows_culprit(answer: Confirm) -> bool:
    """Whether some message of those in flight has closed the channel."""
    return isinstance(answer, _CULPRIT_SHOWN)


def nothing_sent(answers: Sequence[Confirm]) -> bool:
    """Whether the channel was closed before any of the messages could be written to it."""
    found = [answer for answer in answers if not isinstance(answer, CANNOT_BE_WRITTEN)]
    closed = aiormq.exceptions.ChannelInvalidStateError
    return bool(found) and all(isinstance(answer, closed) for answer in found)


def outcome_of(answer: Confirm) -> Outcome:
    """What *answer* means for a message; one that closes the channel must have been alone."""
    errors = aiormq.exceptions
    match answer:
        case Basic.Ack():
            return Outcome.ACKED
        case errors.PublishError() | errors.ChannelNotFoundEntity():
            # Returned, or its exchange is missing: both heal when the topology does.
            return Outcome.RETURNED
        case (
            Basic.Nack() | Basic.Reject() | errors.DeliveryError() | errors.ChannelAccessRefused()
        ):
            return Outcome.NACKED
        case errors.ChannelClosed():
            # The broker refuses it for good.
            return Outcome.REJECTED
        case _ if isinstance(answer, CANNOT_BE_WRITTEN):
            return Outcome.REJECTED
        case _:
            # No time left, connection lost, or the stray cancellation of a silent peer.
            return Outcome.UNKNOWN
