"""
Messages as entries of streams, and back: pure.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery
from outbox.transports.redis.declarations import Target
from outbox.transports.redis.script_functions import LEVELS
from outbox.transports.stored_message import (
    NORMAL_PRIORITY,
    message_of,
    properties_text,
    rank_of,
)
from outbox.wire.codec import WireMessage

MALFORMED = "malformed"

_CALL_BYTES = 1 << 20
_CALL_MESSAGES = 256

Word: TypeAlias = str | bytes | int
"""An argument of a script."""
Fields: TypeAlias = Sequence[str | bytes]
Batch: TypeAlias = list[tuple[WireMessage, Fields | None]]
"""Messages for one call, with their fields; None for one that AMQP could not carry."""

_FIELDS = (b"exchange", b"routing_key", b"properties", b"body")


class Place(NamedTuple):
    """Where an entry stands: the level of its priority, and its id in that stream."""

    level: bytes
    id: bytes

    @property
    def text(self) -> bytes:
        return self.level + b":" + self.id


@dataclass(frozen=True, slots=True)
class Claimed:
    """
    The answer to a claim.

    Args:
        entries: The place of each delivery, in the order of delivery.
        overdue: Whether a sweep would change something.
        last_ids: For each level the last id that was delivered; empty if this consumer should not
            wait for entries behind them.

    """

    entries: list[tuple[Place, Delivery]]
    overdue: bool
    last_ids: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Overdue:
    """A message that its *queue* shall dead-letter."""

    queue: str
    place: Place
    failures: int
    message: WireMessage | None
    """None for an entry that no publisher of ours has written."""


def fields_of(message: WireMessage) -> list[str | bytes]:
    """
    Return level, exchange, routing key, properties and body of *message*.

    Raises TypeError or ValueError if AMQP could not carry it.
    """
    properties, rank = properties_text(message), rank_of(message)
    high, normal, low = LEVELS
    level = high if rank > NORMAL_PRIORITY else normal if rank == NORMAL_PRIORITY else low
    return [level, message.exchange, message.routing_key, properties, message.body]


def batches(messages: Sequence[WireMessage]) -> Iterator[Batch]:
    """Cut *messages*, so that no call keeps the server from others for long."""
    batch: Batch = []
    size = 0
    for message in messages:
        try:
            fields: Fields | None = fields_of(message)
        except (TypeError, ValueError):
            fields = None
        if batch and (len(batch) == _CALL_MESSAGES or size + len(message.body) > _CALL_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((message, fields))
        size += len(message.body)
    if batch:
        yield batch


def outcome_of(fields: Fields | None, targets: Collection[Target]) -> Outcome:
    if fields is None:
        return Outcome.REJECTED
    return Outcome.ACKED if targets else Outcome.RETURNED


def words_of(fields: Fields, targets: Collection[Target]) -> list[Word]:
    """Return a message as arguments of a script: `put` in `scripts` reads them."""
    words: list[Word] = [*fields, len(targets)]
    for target in targets:
        words += [target.queue, -1 if target.ttl is None else target.ttl]
    return words


def claimed_of(reply: Sequence[Any], *, queue: str, first_tag: int) -> Claimed:
    """Return the *reply* of the script; the deliveries have tags from *first_tag* on."""
    overdue, last_ids, found = reply
    entries = []
    for tag, (level, entry_id, count, redelivered, fields) in enumerate(found, first_tag):
        message = _read(fields, failures=int(count) - 1)
        is_readable = message is not None
        delivery = Delivery(
            message or WireMessage(exchange="", routing_key=queue, body=_body_of(fields)),
            tag=tag,
            redelivered=bool(redelivered),
            decode_error=None if is_readable else MALFORMED,
            decode_detail="" if is_readable else "properties",
        )
        entries.append((Place(level, entry_id), delivery))
    return Claimed(entries, overdue=bool(overdue), last_ids=last_ids)


def overdue_of(reply: Sequence[tuple[bytes, bytes, bytes, int, list[bytes]]]) -> list[Overdue]:
    """Return the *reply* of the script."""
    return [
        Overdue(queue.decode(), Place(level, entry_id), int(count) - 1, _read(fields, failures=0))
        for queue, level, entry_id, count, fields in reply
    ]


def _read(fields: Sequence[bytes], *, failures: int) -> WireMessage | None:
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        exchange, routing_key, properties, body = (values[name] for name in _FIELDS)
        return message_of(
            exchange=exchange.decode(),
            routing_key=routing_key.decode(),
            properties=properties,
            body=body,
            failures=failures,
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        # Who may write to the stream may write anything there.
        return None


def _body_of(fields: Sequence[bytes]) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"body", b"")
