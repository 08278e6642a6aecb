"""
Messages of the embedded broker as rows of its table, and back: pure.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

_NORMAL = 4
_MAX_SHORT_STRING = 255
_MAX_PRIORITY = 255
_LAST_ROUTING_KEYS = "x-last-death-routing-keys"
_PLAIN_PROPERTIES = (
    "message_id",
    "type",
    "correlation_id",
    "reply_to",
    "content_type",
    "content_encoding",
    "priority",
)


def dead_letter_copy(
    message: WireMessage, queue: str, arguments: Mapping[str, Any], reason: str
) -> WireMessage:
    """Return *message* as *queue* with these *arguments* dead-letters it for *reason*."""
    # The headers of RabbitMQ, which writes the routing keys into x-death.
    death = {"queue": queue, "reason": reason, "exchange": message.exchange}
    first = {f"x-first-death-{name}": value for name, value in death.items()}
    last = {f"x-last-death-{name}": value for name, value in death.items()}
    return dataclasses.replace(
        message,
        exchange=arguments["x-dead-letter-exchange"],
        routing_key=arguments.get("x-dead-letter-routing-key", message.routing_key),
        headers={**first, **message.headers, **last, _LAST_ROUTING_KEYS: [message.routing_key]},
    )


def to_row(message: WireMessage) -> tuple[Any, ...]:
    """
    Return the rank, exchange, routing key, properties and body of *message*.

    Raises TypeError or ValueError if AMQP could not carry it.
    """
    for text in (message.exchange, message.routing_key):
        if len(text.encode()) > _MAX_SHORT_STRING:
            raise ValueError("longer than a short string")
    rank = _NORMAL if message.priority is None else message.priority
    if not 0 <= rank <= _MAX_PRIORITY:
        raise ValueError("not an octet")
    properties = {name: getattr(message, name) for name in _PLAIN_PROPERTIES}
    stamp = message.timestamp
    properties["timestamp"] = None if stamp is None else int(stamp.timestamp())
    properties["headers"] = dict(message.headers)
    encoded = json.dumps(properties)
    return (rank, message.exchange, message.routing_key, encoded, message.body)


def to_delivery(row: sqlite3.Row) -> Delivery:
    """Return *row* of the table as a delivery."""
    values = json.loads(row["properties"])
    if (stamp := values["timestamp"]) is not None:
        values["timestamp"] = datetime.fromtimestamp(stamp, UTC)
    if row["failures"]:
        values["headers"]["x-delivery-count"] = row["failures"]
    values["headers"] = MappingProxyType(values["headers"])
    return Delivery(
        WireMessage(
            exchange=row["exchange"], routing_key=row["routing_key"], body=row["body"], **values
        ),
        tag=row["seq"],
        redelivered=bool(row["redelivered"]),
    )
