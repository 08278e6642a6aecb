"""
The confirms that a publish can get from RabbitMQ, and what each one means.
"""

import struct
from collections.abc import Collection, Sequence
from typing import TypeAlias

import aiormq
from pamqp.commands import Basic

from outbox.transports.base import Outcome

Confirm: TypeAlias = Basic.Ack | Basic.Nack | Basic.Reject | BaseException | None
"""A frame of the broker, or the error that replaced it."""

ENCODING_ERRORS = (TypeError, ValueError, ArithmeticError, struct.error)
"""Errors of the client for a message that cannot be encoded as frames."""

# Errors that show that a message, not the network, closed the channel. A publish that is written
# to a channel after the broker closed it ends the connection too, as a protocol error.
_CHANNEL_CLOSED = (
    aiormq.exceptions.ChannelClosed,
    aiormq.exceptions.ConnectionChannelError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
)
_FINAL = (
    Basic.Ack,
    Basic.Nack,
    Basic.Reject,
    aiormq.exceptions.PublishError,
    aiormq.exceptions.DeliveryError,
    *ENCODING_ERRORS,
)


def of_each_kind(confirms: Sequence[Confirm]) -> Collection[Confirm]:
    """
    Return one of *confirms* of each kind: what the functions below return depends on the kind.

    Nearly all confirms of a batch are of one kind.
    """
    return {type(confirm): confirm for confirm in confirms}.values()


def is_final(confirm: Confirm) -> bool:
    """Return whether *confirm* is about this message alone, and final."""
    return isinstance(confirm, _FINAL)


def is_refused(confirm: Confirm) -> bool:
    """
    Return whether the broker received the message and refused it.

    A returned message is not meant: on any connection the broker would return it.
    """
    errors = aiormq.exceptions
    returned = isinstance(confirm, errors.PublishError)
    return not returned and isinstance(confirm, (Basic.Nack, Basic.Reject, errors.DeliveryError))


def closed_channel(confirm: Confirm) -> bool:
    """Return whether one of the messages in flight closed the channel."""
    return isinstance(confirm, _CHANNEL_CLOSED)


def nothing_sent(confirms: Sequence[Confirm]) -> bool:
    """Return whether the channel was closed before any message was written to it."""
    found = [confirm for confirm in confirms if not isinstance(confirm, ENCODING_ERRORS)]
    closed = aiormq.exceptions.ChannelInvalidStateError
    return bool(found) and all(isinstance(confirm, closed) for confirm in found)


def outcomes_of(confirms: Sequence[Confirm]) -> list[Outcome]:
    """Return the outcome for each of *confirms*."""
    outcomes = {type(confirm): _outcome_of(confirm) for confirm in of_each_kind(confirms)}
    return [outcomes[type(confirm)] for confirm in confirms]


def _outcome_of(confirm: Confirm) -> Outcome:
    """Return the outcome for *confirm*; a message that closed the channel was published alone."""
    errors = aiormq.exceptions
    match confirm:
        case Basic.Ack():
            return Outcome.ACKED
        case errors.PublishError() | errors.ChannelNotFoundEntity():
            # Unroutable, or the exchange is missing: fixing the topology fixes both.
            return Outcome.RETURNED
        case (
            Basic.Nack() | Basic.Reject() | errors.DeliveryError() | errors.ChannelAccessRefused()
        ):
            return Outcome.NACKED
        case errors.ChannelClosed():
            # The broker refuses this message permanently.
            return Outcome.REJECTED
        case _ if isinstance(confirm, ENCODING_ERRORS):
            return Outcome.REJECTED
        case _:
            # The deadline passed, the connection was lost, or aiormq cancelled for a silent peer.
            return Outcome.UNKNOWN
