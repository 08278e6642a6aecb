"""
Consumers of the embedded broker: their leases, and which one is active.

A queue with a single active consumer delivers to the one that joined first. It is active until it
leaves, or until its lease expires and another consumer removes it. Both requeue its unsettled
messages in the same transaction, so the next consumer finds them in their old order.

Functions take a connection and the time in milliseconds; the caller owns the transaction.
"""

import sqlite3

from outbox.transports.sqlite.schema import changed, require

# Ids are never reused, so the consumer with the smallest id joined first.
_IS_ACTIVE = """
SELECT NOT coalesce(json_extract(arguments, '$."x-single-active-consumer"'), 0)
    OR :owner = (SELECT min(id) FROM consumers WHERE queue = :queue)
FROM queues WHERE name = :queue
"""


def join(db: sqlite3.Connection, now: int, *, queue: str, lease: int) -> int:
    """Add a consumer of *queue*, with a lease in milliseconds; return its id, which is unique."""
    require(db, "queue", queue)
    joined = db.execute(
        "INSERT INTO consumers (queue, lease_until) VALUES (?, ?)", (queue, now + lease)
    )
    return joined.lastrowid or 0


def extend(db: sqlite3.Connection, now: int, *, owner: int, lease: int) -> bool:
    """Extend the lease of *owner* to *lease* milliseconds; return whether it still had one."""
    return changed(db, "UPDATE consumers SET lease_until = ? WHERE id = ?", now + lease, owner)


def is_active(db: sqlite3.Connection, *, owner: int, queue: str) -> bool:
    """Return whether *queue* delivers to *owner*, not only to one that joined before."""
    return bool(db.execute(_IS_ACTIVE, {"owner": owner, "queue": queue}).fetchone()[0])
