"""
Copies of delivered messages, published to a queue by its name; and messages from the dead queue.

    retry_copy         waits in a retry queue, with the normal priority
    renewed_copy       goes to the end of the work queue, as if it had never been delivered
    requeue_copy       goes from the dead queue back to the work queue
    replay_copy        goes from `dead_letters` back to the work queue
    forwarded_copy     goes from a drained partition to the current generation
    original_message   a message of the dead queue, as it was before the broker dead-lettered it

A copy has the id of its message, and headers with the original route. It leaves out headers that a
broker has added: a republished x-death closes channels on some versions of RabbitMQ, and CC or BCC
would route the copy elsewhere. It also leaves out values of other publishers that this project can
decode but not encode.

All copies in a retry queue have one priority: RabbitMQ 4.0 takes the messages of a queue in the
order of their priority and looks at the time to live of the next one only, so that a message of
another priority would wait behind it. A header remembers the priority.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from consumer.partition_names import is_queue_or_partition
from outbox.event import Priority
from outbox.wire.codec import WireMessage, sent_priority, wire_priority
from outbox.wire.headers import (
    ATTEMPT_HEADER,
    EXCHANGE_HEADER,
    EXPIRES_HEADER,
    NOT_BEFORE_HEADER,
    PRIORITY_HEADER,
    REPLAY_HEADER,
    REQUEUES_HEADER,
    ROUTING_KEY_HEADER,
    UNSUPPORTED_SINCE_HEADER,
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
    failed: bool = False,
) -> WireMessage:
    """
    The copy that waits in the retry queue *queue*.

    *attempt* is the number of failed attempts; None leaves it as it is. A copy that is delivered
    earlier than *not_before* has to wait again. A message that has *failed* has a handler.
    """
    added: dict[str, Any] = {}
    without = {NOT_BEFORE_HEADER, UNSUPPORTED_SINCE_HEADER} if failed else {NOT_BEFORE_HEADER}
    if attempt is not None:
        added[ATTEMPT_HEADER] = attempt
    if not_before is not None:
        added[NOT_BEFORE_HEADER] = _iso_text(not_before)
    priority = sent_priority(message)
    normal = wire_priority(Priority.NORMAL)
    if priority not in {None, normal}:
        added[PRIORITY_HEADER] = priority
        priority = normal
    return replace(_copy(message, queue, without=without, added=added), priority=priority)


def renewed_copy(message: WireMessage, *, queue: str) -> WireMessage:
    """The copy that goes to the end of its *queue*; the broker counts its deliveries from 0."""
    return _copy(message, queue, without={NOT_BEFORE_HEADER}, added={})


def waiting_since(message: WireMessage, since: datetime | None) -> WireMessage:
    """*message* with the time *since* which no process has had a handler for it."""
    if since is None:
        return message
    headers = {**message.headers, UNSUPPORTED_SINCE_HEADER: _iso_text(since)}
    return replace(message, headers=headers)


def _iso_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def requeue_copy(message: WireMessage, *, queue: str, requeues: int) -> WireMessage:
    """The copy that is requeued into *queue*; *requeues* counts it."""
    return _copy(message, queue, added={REQUEUES_HEADER: requeues})


def replay_copy(message: WireMessage, *, queue: str, run: UUID) -> WireMessage:
    """
    The copy that goes back to its *queue*; its attempts and requeues are counted from 0.

    A replayed request has no deadline: a person decides that its handler is called now.
    """
    return _copy(
        message,
        queue,
        without={
            ATTEMPT_HEADER,
            REQUEUES_HEADER,
            NOT_BEFORE_HEADER,
            UNSUPPORTED_SINCE_HEADER,
            EXPIRES_HEADER,
        },
        added={REPLAY_HEADER: str(run)},
    )


def forwarded_copy(message: WireMessage, *, exchange: str, queue: str) -> WireMessage:
    """The copy of a message in *queue* that *exchange* spreads over partitions."""
    return replace(_copy(message, queue, added={}), exchange=exchange)


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
        if name not in {PRIORITY_HEADER, *without} and _is_encodable(value)
    }
    origin = {EXCHANGE_HEADER: message.exchange, ROUTING_KEY_HEADER: message.routing_key}
    return replace(
        message,
        exchange="",
        routing_key=queue,
        priority=sent_priority(message),
        headers={**origin, **headers, **added},
    )


def _without_broker_headers(message: WireMessage) -> dict[str, Any]:
    return {
        name: value
        for name, value in message.headers.items()
        if not name.startswith(_BROKER_HEADERS) and name not in {"CC", "BCC"}
    }


def _last_death(message: WireMessage, queue: str) -> Mapping[str, Any]:
    """
    The broker's record of the last time that it dead-lettered *message* from *queue*, or from one
    of its partitions.

    RabbitMQ writes x-death, the latest first; the embedded broker writes x-last-death-*.
    """
    deaths = message.headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and is_queue_or_partition(death.get("queue"), queue):
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
