"""
Messages of the embedded broker as rows of its table, and back: pure.
"""

import sqlite3
from typing import Any

from outbox.transports.delivery import Delivery
from outbox.transports.stored_message import message_of, properties_text, rank_of
from outbox.wire.codec import WireMessage


def to_row(message: WireMessage) -> tuple[Any, ...]:
    """
    Return the rank, exchange, routing key, properties and body of *message*.

    Raises TypeError or ValueError if AMQP could not carry it.
    """
    properties = properties_text(message)
    return (rank_of(message), message.exchange, message.routing_key, properties, message.body)


def to_delivery(row: sqlite3.Row) -> Delivery:
    """Return *row* of the table as a delivery."""
    message = message_of(
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        properties=row["properties"],
        body=row["body"],
        failures=row["failures"],
    )
    return Delivery(message, tag=row["seq"], redelivered=bool(row["redelivered"]))
