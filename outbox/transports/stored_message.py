"""
Messages as the brokers without AMQP store them: the properties as JSON, beside the body. Pure.
"""

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from outbox.wire.codec import WireMessage

NORMAL_PRIORITY = 4
"""The priority of a message that names none."""

_MAX_SHORT_STRING = 255
_MAX_PRIORITY = 255
_LAST_ROUTING_KEYS = "x-last-death-routing-keys"
_DELIVERY_COUNT = "x-delivery-count"
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


def rank_of(message: WireMessage) -> int:
    """Return the priority of *message* as a number; ValueError if it is no octet."""
    rank = NORMAL_PRIORITY if message.priority is None else message.priority
    if not 0 <= rank <= _MAX_PRIORITY:
        raise ValueError("not an octet")
    return rank


def properties_text(message: WireMessage) -> str:
    """
    Return the properties and headers of *message* as JSON.

    Raises TypeError or ValueError if AMQP could not carry the message.
    """
    for text in (message.exchange, message.routing_key):
        if len(text.encode()) > _MAX_SHORT_STRING:
            raise ValueError("longer than a short string")
    properties = {name: getattr(message, name) for name in _PLAIN_PROPERTIES}
    stamp = message.timestamp
    properties["timestamp"] = None if stamp is None else int(stamp.timestamp())
    properties["headers"] = dict(message.headers)
    return json.dumps(properties)


def message_of(
    *, exchange: str, routing_key: str, properties: str | bytes, body: bytes, failures: int
) -> WireMessage:
    """
    Return the message with the *properties* that `properties_text` wrote.

    *failures* is the number of its failed deliveries.
    """
    values = json.loads(properties)
    if (stamp := values["timestamp"]) is not None:
        values["timestamp"] = datetime.fromtimestamp(stamp, UTC)
    if failures:
        values["headers"][_DELIVERY_COUNT] = failures
    values["headers"] = MappingProxyType(values["headers"])
    return WireMessage(exchange=exchange, routing_key=routing_key, body=body, **values)
