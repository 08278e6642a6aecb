"""
Messages of the embedded broker and their leases: every statement on them.

A message is ready (no owner) or leased (owned by a consumer that extends its lease in time). Every
write of a consumer filters by owner: a consumer that lost its lease changes no row.
Each queue has its own copy of a message. A row is dead-lettered at `expires_at`. Retries return
that way: they wait in a queue whose time to live is the delay.

Functions take a connection and the time in milliseconds; the caller owns the transaction. It need
not be durable for `claim` and `ack`, see `connection`: if a loss of power undoes one of them, no
process is left that holds the message. It is delivered again, and dedup drops it if it was acked,
because its effects were durable before the ack. `publish` is durable, because the publisher then
forgets the message, and so are `replace` and `sweep`, because others keep a dead letter that they
read from the dead queue.
A message that cannot be dead-lettered, because no queue takes it, stays.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.delivery import Delivery
from outbox.transports.sqlite import observers
from outbox.transports.sqlite.consumers import extend, is_active
from outbox.transports.sqlite.message_rows import to_delivery, to_row
from outbox.transports.sqlite.routing import Router
from outbox.transports.sqlite.schema import changed, one
from outbox.transports.stored_message import dead_letter_copy
from outbox.wire.codec import WireMessage

_PUT = """
INSERT INTO messages (queue, expires_at, rank, exchange, routing_key, properties, body)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_TTL = """SELECT json_extract(arguments, '$."x-message-ttl"') FROM queues WHERE name = ?"""

_IS_READY = "SELECT EXISTS (SELECT 1 FROM messages WHERE owner IS NULL AND queue = ?)"

_IS_OVERDUE = """
SELECT EXISTS (SELECT 1 FROM messages WHERE owner IS NULL AND expires_at <= :now)
    OR EXISTS (SELECT 1 FROM consumers WHERE lease_until < :now)
    OR EXISTS (SELECT 1 FROM observers WHERE lease_until < :now)
"""

# The order is that of the index messages_ready, so that only the claimed rows are read. The write
# lock is held, so no other consumer claims them between the SELECT and the UPDATE.
_CLAIM = """
UPDATE messages SET owner = :owner WHERE seq IN (
    SELECT seq FROM messages
    WHERE owner IS NULL AND queue = :queue AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY rank DESC, seq LIMIT :limit
)
RETURNING rank, seq, redelivered, failures, exchange, routing_key, properties, body
"""

_DEPTH = """
SELECT (SELECT count(*) FROM messages WHERE owner IS NULL AND queue = :queue) AS ready,
       (SELECT count(*) FROM messages
        WHERE owner IN (SELECT id FROM consumers WHERE queue = :queue)) AS leased,
       (SELECT count(*) FROM consumers WHERE queue = :queue AND lease_until >= :now) AS consumers
"""

_AT_DELIVERY_LIMIT = """
SELECT seq FROM messages JOIN queues ON queues.name = messages.queue
WHERE owner = ? AND failures >= json_extract(arguments, '$."x-delivery-limit"')
"""

_WITH_ARGUMENTS = """
SELECT messages.*, arguments FROM messages JOIN queues ON queues.name = messages.queue
WHERE seq = ?
"""

_SWEEP_LIMIT = 500
_RETRY_SWEEP_MS = 60_000


@dataclass(frozen=True, slots=True)
class Claimed:
    """
    The result of a claim.

    Args:
        deliveries: The messages, in the order of their delivery.
        overdue: Whether a sweep would change a row.

    """

    deliveries: list[Delivery]
    overdue: bool


def depth(db: sqlite3.Connection, now: int, *, queue: str) -> QueueDepth | None:
    """Count the ready and leased messages of *queue*, and its consumers with a valid lease."""
    if one(db, "SELECT 1 FROM queues WHERE name = ?", queue) is None:
        return None
    counted = db.execute(_DEPTH, {"queue": queue, "now": now}).fetchone()
    return QueueDepth(counted["ready"] + counted["leased"], counted["consumers"])


def publish(db: sqlite3.Connection, now: int, *, messages: Sequence[WireMessage]) -> list[Outcome]:
    """Store each message in every queue that its exchange leads it to."""
    router = Router(db)
    ttls: dict[str, int | None] = {}
    rows: list[tuple[Any, ...]] = []
    outcomes = []
    published: list[tuple[WireMessage, str, list[str]]] = []
    for message in messages:
        try:
            row = to_row(message)
        except (TypeError, ValueError):
            outcomes.append(Outcome.REJECTED)
            continue
        queues = router.queues(message.exchange, message.routing_key, message.headers)
        for queue in queues:
            if queue not in ttls:
                ttls[queue] = one(db, _TTL, queue)
            ttl = ttls[queue]
            rows.append((queue, None if ttl is None else now + ttl, *row))
        outcomes.append(Outcome.ACKED if queues else Outcome.RETURNED)
        published.append((message, row[3], queues))
    db.executemany(_PUT, rows)
    observers.copy(db, now, published=published)
    return outcomes


def has_work(db: sqlite3.Connection, now: int, *, owner: int, queue: str) -> bool:
    """Return whether a claim of *owner* or a sweep would change a row; reads few index entries."""
    is_ready = one(db, _IS_READY, queue) and is_active(db, owner=owner, queue=queue)
    return bool(is_ready or is_overdue(db, now))


def is_overdue(db: sqlite3.Connection, now: int) -> bool:
    """Return whether a sweep would change a row; reads few index entries."""
    return bool(db.execute(_IS_OVERDUE, {"now": now}).fetchone()[0])


def sweep(db: sqlite3.Connection, now: int) -> None:
    """Remove consumers and observers whose lease expired, and dead-letter expired messages."""
    observers.sweep(db, now)
    for (late,) in db.execute("SELECT id FROM consumers WHERE lease_until < ?", (now,)).fetchall():
        leave(db, now, owner=late)
    expired = db.execute(
        "SELECT seq FROM messages WHERE owner IS NULL AND expires_at <= ? "
        "ORDER BY expires_at, seq LIMIT ?",
        (now, _SWEEP_LIMIT),
    ).fetchall()
    for (seq,) in expired:
        _dead_letter(db, now, seq=seq, reason="expired")


def claim(
    db: sqlite3.Connection, now: int, *, owner: int, queue: str, limit: int, lease: int
) -> Claimed | None:
    """
    Lease up to *limit* messages to *owner*; None if it lost its own lease.

    A consumer that is not the single active one gets none.
    """
    if not extend(db, now, owner=owner, lease=lease):
        return None
    overdue = is_overdue(db, now)
    if not is_active(db, owner=owner, queue=queue):
        return Claimed([], overdue)
    rows = db.execute(_CLAIM, {"owner": owner, "queue": queue, "limit": limit, "now": now})
    # RETURNING promises no order.
    ordered = sorted(rows, key=lambda row: (-row["rank"], row["seq"]))
    return Claimed([to_delivery(row) for row in ordered], overdue)


def ack(db: sqlite3.Connection, _now: int, *, owner: int, seqs: Collection[int]) -> Outcome | None:
    """Delete the messages; None if *owner* no longer owns one of them."""
    deleted = db.execute(
        "DELETE FROM messages WHERE owner = ? AND seq IN (SELECT value FROM json_each(?))",
        (owner, json.dumps(list(seqs))),
    )
    return Outcome.ACKED if deleted.rowcount == len(seqs) else None


def release(db: sqlite3.Connection, _now: int, *, owner: int, seq: int) -> Outcome | None:
    """Make the message ready again, in its old place; None if *owner* no longer owns it."""
    statement = "UPDATE messages SET owner = NULL, redelivered = 1 WHERE seq = ? AND owner = ?"
    return Outcome.ACKED if changed(db, statement, seq, owner) else None


def replace(
    db: sqlite3.Connection, now: int, *, owner: int, seq: int, copy: WireMessage
) -> Outcome | None:
    """Replace the message with *copy*; None if *owner* no longer owns it."""
    if one(db, "SELECT 1 FROM messages WHERE seq = ? AND owner = ?", seq, owner) is None:
        return None
    outcome = publish(db, now, messages=[copy])[0]
    if outcome is Outcome.ACKED:
        ack(db, now, owner=owner, seqs=[seq])
    return outcome


def release_all(db: sqlite3.Connection, _now: int, *, owner: int, keep: Collection[int]) -> None:
    """Make the messages of *owner* ready again, except *keep*; it counts as no failed delivery."""
    db.execute(
        "UPDATE messages SET owner = NULL, redelivered = 1 "
        "WHERE owner = ? AND seq NOT IN (SELECT value FROM json_each(?))",
        (owner, json.dumps(list(keep))),
    )


def leave(db: sqlite3.Connection, now: int, *, owner: int) -> None:
    """Remove *owner*; its unsettled messages count as failed: ready again, or dead-lettered."""
    at_limit = db.execute(_AT_DELIVERY_LIMIT, (owner,)).fetchall()
    db.execute(
        "UPDATE messages SET owner = NULL, redelivered = 1, failures = failures + 1 "
        "WHERE owner = ?",
        (owner,),
    )
    for (seq,) in at_limit:
        _dead_letter(db, now, seq=seq, reason="delivery_limit")
    db.execute("DELETE FROM consumers WHERE id = ?", (owner,))


def _dead_letter(db: sqlite3.Connection, now: int, *, seq: int, reason: str) -> None:
    """Dead-letter a message as its queue's arguments say; without any, drop it, as in AMQP."""
    row = db.execute(_WITH_ARGUMENTS, (seq,)).fetchone()
    arguments = json.loads(row["arguments"])
    if "x-dead-letter-exchange" in arguments:
        copy = dead_letter_copy(to_delivery(row).message, row["queue"], arguments, reason)
        if publish(db, now, messages=[copy]) != [Outcome.ACKED]:
            later = "UPDATE messages SET expires_at = ? WHERE seq = ? AND expires_at IS NOT NULL"
            db.execute(later, (now + _RETRY_SWEEP_MS, seq))
            return
    db.execute("DELETE FROM messages WHERE seq = ?", (seq,))
