"""
Messages as entries of streams, and back: pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from outbox.transports.delivery import Delivery
from outbox.transports.redis.scripts import LEVELS
from outbox.transports.stored_message import (
    NORMAL_PRIORITY,
    message_of,
    properties_text,
    rank_of,
)
from outbox.wire.codec import WireMessage

MALFORMED = "malformed"

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


def claimed_of(reply: Sequence[Sequence[bytes]], *, queue: str, first_tag: int) -> Claimed:
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
        entries.append((Place(level, entry_id), delivery))  # type: ignore[arg-type]
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
    except (KeyError, TypeError, ValueError):
        # Who may write to the stream may write anything there.
        return None


def _body_of(fields: Sequence[bytes]) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"body", b"")
