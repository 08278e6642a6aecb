"""
Consumers of the embedded broker: their leases, and which of a queue gets messages.

Of a queue with a single active consumer it is the one that joined first. It is active until it
leaves, or its lease is over and another one has it leave. Either puts back what it had unsettled
in the same transaction, so whoever is next finds all of that, in its old place.

Functions take a connection and the time in milliseconds; transactions are the caller's.
"""

import sqlite3

from outbox.transports.sqlite.schema import changed, require

# Ids are never used again, so the smallest one joined first.
_IS_ACTIVE = """
SELECT NOT coalesce(json_extract(arguments, '$."x-single-active-consumer"'), 0)
    OR :owner = (SELECT min(id) FROM consumers WHERE queue = :queue)
FROM queues WHERE name = :queue
"""


def join(db: sqlite3.Connection, now: int, *, queue: str, lease: int) -> int:
    """The id of a new consumer of *queue*, which no other ever had."""
    require(db, "queue", queue)
    joined = db.execute(
        "INSERT INTO consumers (queue, lease_until) VALUES (?, ?)", (queue, now + lease)
    )
    return joined.lastrowid or 0


def extend(db: sqlite3.Connection, now: int, *, owner: int, lease: int) -> bool:
    """Whether *owner* still had its lease, which now lasts *lease* milliseconds from here."""
    return changed(db, "UPDATE consumers SET lease_until = ? WHERE id = ?", now + lease, owner)


def is_active(db: sqlite3.Connection, *, owner: int, queue: str) -> bool:
    """Whether messages of *queue* are for *owner*, or only for one that joined before."""
    return bool(db.execute(_IS_ACTIVE, {"owner": owner, "queue": queue}).fetchone()[0])
