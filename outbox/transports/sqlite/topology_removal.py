"""
Removing bindings, exchanges and empty queues from the embedded broker.

The function takes a connection and the time in milliseconds; the caller owns the transaction.
"""

import sqlite3

from outbox.transports.sqlite.schema import changed
from outbox.transports.topology import Topology

_UNBIND = "DELETE FROM bindings WHERE exchange = ? AND queue = ? AND pattern = ?"
_IS_USED = "SELECT EXISTS (SELECT 1 FROM messages WHERE queue = ?)"


def remove(db: sqlite3.Connection, _now: int, *, topology: Topology) -> list[str]:
    """Remove the entities of *topology*, see `Transport.remove`."""
    for binding in topology.bindings:
        changed(db, _UNBIND, binding.exchange, binding.queue, binding.pattern)
    for exchange in topology.exchanges:
        db.execute("DELETE FROM bindings WHERE exchange = ?", (exchange.name,))
        db.execute("DELETE FROM exchanges WHERE name = ?", (exchange.name,))
    kept = []
    for queue in topology.queues:
        if db.execute(_IS_USED, (queue.name,)).fetchone()[0]:
            kept.append(queue.name)
            continue
        for table, column in (("bindings", "queue"), ("consumers", "queue"), ("queues", "name")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (queue.name,))
    return kept
