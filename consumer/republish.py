"""
Copies of delivered messages, which go to a queue by its name, and what earlier copies tell.

A copy is the message under the same id. It remembers its original route, and leaves out what a
broker has added: a republished x-death closes channels on some versions, and CC or BCC would route
it elsewhere. So does it leave out values of other publishers that can be read but not written.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from outbox.wire.codec import WireMessage
from outbox.wire.headers import (
    ATTEMPT_HEADER,
    EXCHANGE_HEADER,
    NOT_BEFORE_HEADER,
    REPLAY_HEADER,
    REQUEUES_HEADER,
    ROUTING_KEY_HEADER,
)

UNKNOWN_DEATH = "dead_lettered"

_OF_BROKERS = ("x-death", "x-first-death", "x-last-death", "x-delivery")
_DEATHS = frozenset({"expired", "delivery_limit", "rejected", "maxlen"})


def retry_copy(
    message: WireMessage,
    *,
    queue: str,
    attempt: int | None = None,
    not_before: datetime | None = None,
) -> WireMessage:
    """
    The copy that waits in *queue*.

    *attempt* is the number of the attempt that has failed; None is as many as before. A copy that
    is delivered earlier than *not_before* has to wait again.
    """
    added: dict[str, Any] = {}
    if attempt is not None:
        added[ATTEMPT_HEADER] = attempt
    if not_before is not None:
        added[NOT_BEFORE_HEADER] = not_before.astimezone(UTC).isoformat(timespec="milliseconds")
    return _copy(message, queue, without={NOT_BEFORE_HEADER}, added=added)


def requeue_copy(message: WireMessage, *, queue: str, requeues: int) -> WireMessage:
    """The copy that is requeued into *queue*, for the time number *requeues*."""
    return _copy(message, queue, added={REQUEUES_HEADER: requeues})


def replay_copy(message: WireMessage, *, queue: str, run: UUID) -> WireMessage:
    """The copy that goes back to its *queue*; everything about it is counted anew."""
    return _copy(
        message,
        queue,
        without={ATTEMPT_HEADER, REQUEUES_HEADER, NOT_BEFORE_HEADER},
        added={REPLAY_HEADER: str(run)},
    )


def dead_letter_reason(message: WireMessage, *, queue: str) -> str:
    """
    Why the broker gave *message* up in *queue*.

    `expired`, `delivery_limit`, `rejected`, `maxlen`, or `dead_lettered` if it does not say.
    """
    reason = _death(message, queue).get("reason")
    return reason if isinstance(reason, str) and reason in _DEATHS else UNKNOWN_DEATH


def original_message(message: WireMessage, *, queue: str) -> WireMessage:
    """*message* as it was delivered from *queue*, before the broker gave it up."""
    death = _death(message, queue)
    exchange = death.get("exchange")
    keys = death.get("routing-keys")
    return replace(
        message,
        exchange=exchange if isinstance(exchange, str) else "",
        routing_key=_first_text(keys, queue),
        headers=_own(message),
    )


def _copy(
    message: WireMessage,
    queue: str,
    *,
    added: Mapping[str, Any],
    without: frozenset[str] | set[str] = frozenset(),
) -> WireMessage:
    ours = {
        name: value
        for name, value in _own(message).items()
        if name not in without and _can_be_sent(value)
    }
    origin = {EXCHANGE_HEADER: message.exchange, ROUTING_KEY_HEADER: message.routing_key}
    return replace(message, exchange="", routing_key=queue, headers={**origin, **ours, **added})


def _own(message: WireMessage) -> dict[str, Any]:
    return {
        name: value
        for name, value in message.headers.items()
        if not name.startswith(_OF_BROKERS) and name not in {"CC", "BCC"}
    }


def _death(message: WireMessage, queue: str) -> Mapping[str, Any]:
    """
    What the broker wrote about the last time that *message* died in *queue*.

    RabbitMQ writes x-death, the latest first; the embedded broker x-last-death-*.
    """
    deaths = message.headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and death.get("queue") == queue:
            return death
    if message.headers.get("x-last-death-queue") != queue:
        return {}
    prefix = "x-last-death-"
    return {
        name.removeprefix(prefix): value
        for name, value in message.headers.items()
        if name.startswith(prefix)
    }


def _can_be_sent(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, str)


def _first_text(values: Any, default: str) -> str:
    first = values[0] if isinstance(values, list) and values else default
    return first if isinstance(first, str) else default
