"""
Copies of delivered messages, published to a queue by its name; and messages from the dead queue.

    retry_copy         waits in a retry queue
    requeue_copy       goes from the dead queue back to the work queue
    replay_copy        goes from `dead_letters` back to the work queue
    original_message   a message of the dead queue, as it was before the broker dead-lettered it

A copy has the id of its message, and headers with the original route. It leaves out headers that a
broker has added: a republished x-death closes channels on some versions of RabbitMQ, and CC or BCC
would route the copy elsewhere. It also leaves out values of other publishers that this project can
decode but not encode.
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

UNKNOWN_REASON = "dead_lettered"

_BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery")
_REASONS = frozenset({"expired", "delivery_limit", "rejected", "maxlen"})


def retry_copy(
    message: WireMessage,
    *,
    queue: str,
    attempt: int | None = None,
    not_before: datetime | None = None,
) -> WireMessage:
    """
    The copy that waits in *queue*.

    *attempt* is the number of failed attempts; None leaves it as it is. A copy that is delivered
    earlier than *not_before* has to wait again.
    """
    added: dict[str, Any] = {}
    if attempt is not None:
        added[ATTEMPT_HEADER] = attempt
    if not_before is not None:
        added[NOT_BEFORE_HEADER] = not_before.astimezone(UTC).isoformat(timespec="milliseconds")
    return _copy(message, queue, without={NOT_BEFORE_HEADER}, added=added)


def requeue_copy(message: WireMessage, *, queue: str, requeues: int) -> WireMessage:
    """The copy that is requeued into *queue*; *requeues* counts it."""
    return _copy(message, queue, added={REQUEUES_HEADER: requeues})


def replay_copy(message: WireMessage, *, queue: str, run: UUID) -> WireMessage:
    """The copy that goes back to its *queue*; its attempts and requeues are counted from 0."""
    return _copy(
        message,
        queue,
        without={ATTEMPT_HEADER, REQUEUES_HEADER, NOT_BEFORE_HEADER},
        added={REPLAY_HEADER: str(run)},
    )


def dead_letter_reason(message: WireMessage, *, queue: str) -> str:
    """
    The reason for which the broker dead-lettered *message* from *queue*.

    `expired`, `delivery_limit`, `rejected`, `maxlen`, or `dead_lettered` if it names no reason.
    """
    reason = _last_death(message, queue).get("reason")
    return reason if isinstance(reason, str) and reason in _REASONS else UNKNOWN_REASON


def original_message(message: WireMessage, *, queue: str) -> WireMessage:
    """*message* as it was in *queue*, before the broker dead-lettered it."""
    death = _last_death(message, queue)
    exchange = death.get("exchange")
    keys = death.get("routing-keys")
    return replace(
        message,
        exchange=exchange if isinstance(exchange, str) else "",
        routing_key=_first_text(keys, queue),
        headers=_without_broker_headers(message),
    )


def _copy(
    message: WireMessage,
    queue: str,
    *,
    added: Mapping[str, Any],
    without: frozenset[str] | set[str] = frozenset(),
) -> WireMessage:
    headers = {
        name: value
        for name, value in _without_broker_headers(message).items()
        if name not in without and _is_encodable(value)
    }
    origin = {EXCHANGE_HEADER: message.exchange, ROUTING_KEY_HEADER: message.routing_key}
    return replace(message, exchange="", routing_key=queue, headers={**origin, **headers, **added})


def _without_broker_headers(message: WireMessage) -> dict[str, Any]:
    return {
        name: value
        for name, value in message.headers.items()
        if not name.startswith(_BROKER_HEADERS) and name not in {"CC", "BCC"}
    }


def _last_death(message: WireMessage, queue: str) -> Mapping[str, Any]:
    """
    The broker's record of the last time that it dead-lettered *message* from *queue*.

    RabbitMQ writes x-death, the latest first; the embedded broker writes x-last-death-*.
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


def _is_encodable(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, str)


def _first_text(values: Any, default: str) -> str:
    first = values[0] if isinstance(values, list) and values else default
    return first if isinstance(first, str) else default
