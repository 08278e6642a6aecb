"""
Removing bindings, exchanges and empty queues from the embedded broker.

The function takes a connection and the time in milliseconds; the caller owns the transaction.
"""

import sqlite3

from outbox.transports.sqlite.routing import unbind
from outbox.transports.topology import Topology

_OF_EXCHANGE = (
    ("bindings", "exchange"),
    ("further_bindings", "source"),
    ("alternate_exchanges", "exchange"),
    ("exchanges", "name"),
)
_OF_DESTINATION = "DELETE FROM further_bindings WHERE destination = ?"
_IS_USED = "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ?)"


def remove(db: sqlite3.Connection, _now: int, *, topology: Topology) -> list[str]:
    """Remove the entities of *topology*, see `Transport.remove`."""
    for binding in topology.bindings:
        unbind(db, binding)
    for each in topology.exchange_bindings:
        unbind(db, each)
    for exchange in topology.exchanges:
        for table, column in _OF_EXCHANGE:
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (exchange.name,))
        db.execute(f"{_OF_DESTINATION} AND to_exchange = 1", (exchange.name,))
    kept = []
    for queue in topology.queues:
        if db.execute(_IS_USED, (queue.name,)).fetchone()[0]:
            kept.append(queue.name)
            continue
        for table, column in (("bindings", "queue"), ("consumers", "queue"), ("queues", "name")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (queue.name,))
        db.execute(f"{_OF_DESTINATION} AND to_exchange = 0", (queue.name,))
    return kept
