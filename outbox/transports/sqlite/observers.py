"""
Observers of the embedded broker, and the copies that wait for them: every statement on both.

    publish ── copy, in its transaction ──▶ observed ──observer──▶ observers (lease_until)

A copy is no message of a queue, so it makes no unroutable message routable. An observer extends
its lease while it lasts. After that any publish, and any sweep of a subscription, removes it with
its copies.

Functions take a connection and the time in milliseconds; the caller owns the transaction. Only
the tables of another version are made outside of one, when the file is opened.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from outbox.transports.observation import MOST_BYTES, MOST_COPIES, Copy
from outbox.transports.sqlite.message_rows import to_delivery
from outbox.transports.topology import Binding, matches
from outbox.wire.codec import WireMessage

TABLES = """
CREATE TABLE IF NOT EXISTS observers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lease_until INTEGER NOT NULL,
    bindings TEXT NOT NULL,
    bodies INTEGER NOT NULL,
    missed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS observed (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    observer INTEGER NOT NULL,
    queues TEXT NOT NULL,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    properties TEXT NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS observed_waiting ON observed (observer, seq);
"""
"""Programs of an older version ignore them, and make no copies."""

_PUT = """
INSERT INTO observed (observer, queues, exchange, routing_key, properties, size, body)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

# From the newest copy on: those beyond either bound are dropped.
_DROP = """
DELETE FROM observed WHERE seq IN (
    SELECT seq FROM (
        SELECT seq, row_number() OVER newest AS number, sum(length(body)) OVER newest AS bytes
        FROM observed WHERE observer = :observer
        WINDOW newest AS (ORDER BY seq DESC)
    )
    WHERE number > :most OR bytes > :most_bytes
)
"""

_TAKE = """
SELECT seq, queues, size, exchange, routing_key, properties, body, 0 AS failures,
       0 AS redelivered
FROM observed WHERE observer = ? ORDER BY seq LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """Copies, in the order of their publishing, and how many the observer has missed in all."""

    copies: list[Copy]
    missed: int


def join(
    db: sqlite3.Connection, now: int, *, bindings: Sequence[Binding], bodies: bool, lease: int
) -> int:
    """Add an observer, with a lease in milliseconds; return its id, which is unique."""
    sweep(db, now)
    chosen = json.dumps([[binding.exchange, binding.pattern] for binding in bindings])
    joined = db.execute(
        "INSERT INTO observers (lease_until, bindings, bodies) VALUES (?, ?, ?)",
        (now + lease, chosen, bodies),
    )
    return joined.lastrowid or 0


def copy(
    db: sqlite3.Connection,
    now: int,
    *,
    published: Sequence[tuple[WireMessage, str, Sequence[str]]],
) -> None:
    """
    Copy the messages that were *published* for the observers that have chosen them.

    Each comes with its properties as a row has them, and the queues that have got it.
    """
    observers = db.execute("SELECT id, lease_until, bindings, bodies FROM observers").fetchall()
    for observer in observers:
        if observer["lease_until"] < now:
            leave(db, now, observer=observer["id"])
            continue
        bindings = json.loads(observer["bindings"])
        rows: list[tuple[Any, ...]] = [
            (
                observer["id"],
                json.dumps(list(queues)),
                message.exchange,
                message.routing_key,
                properties,
                len(message.body),
                message.body if observer["bodies"] else b"",
            )
            for message, properties, queues in published
            if _is_chosen(message, bindings)
        ]
        if rows:
            db.executemany(_PUT, rows)
            _drop(db, observer["id"])


def waiting(db: sqlite3.Connection, _now: int, *, observer: int) -> bool:
    """Return whether a copy waits for *observer*; reads one entry of an index."""
    found = db.execute("SELECT EXISTS (SELECT 1 FROM observed WHERE observer = ?)", (observer,))
    return bool(found.fetchone()[0])


def take(
    db: sqlite3.Connection, now: int, *, observer: int, limit: int, lease: int
) -> Taken | None:
    """Remove and return copies, and extend the lease; None if *observer* has lost it."""
    held = db.execute(
        "UPDATE observers SET lease_until = ? WHERE id = ? RETURNING missed",
        (now + lease, observer),
    ).fetchone()
    if held is None:
        return None
    rows = db.execute(_TAKE, (observer, limit)).fetchall()
    if rows:
        db.execute(
            "DELETE FROM observed WHERE observer = ? AND seq <= ?", (observer, rows[-1]["seq"])
        )
    copies = [
        Copy(to_delivery(row).message, row["size"], json.loads(row["queues"])) for row in rows
    ]
    return Taken(copies, held["missed"])


def leave(db: sqlite3.Connection, _now: int, *, observer: int) -> None:
    """Remove *observer* and its copies."""
    db.execute("DELETE FROM observed WHERE observer = ?", (observer,))
    db.execute("DELETE FROM observers WHERE id = ?", (observer,))


def sweep(db: sqlite3.Connection, now: int) -> None:
    """Remove the observers whose lease has expired, with their copies."""
    for (late,) in db.execute("SELECT id FROM observers WHERE lease_until < ?", (now,)).fetchall():
        leave(db, now, observer=late)


def _drop(db: sqlite3.Connection, observer: int) -> None:
    bounds = {"observer": observer, "most": MOST_COPIES, "most_bytes": MOST_BYTES}
    if dropped := db.execute(_DROP, bounds).rowcount:
        db.execute("UPDATE observers SET missed = missed + ? WHERE id = ?", (dropped, observer))


def _is_chosen(message: WireMessage, bindings: Sequence[tuple[str, str]]) -> bool:
    return any(
        exchange == message.exchange and matches(pattern, message.routing_key)
        for exchange, pattern in bindings
    )
