"""
Tables of the embedded broker, and the topology declared in it.

    exchanges ──bindings──▶ queues ◀── messages ──owner──▶ consumers (lease_until)

The tables of observers are in `observers`, those of other bindings in `routing`.
Functions take a connection and the time in milliseconds; the caller owns the transaction.
"""

import json
import sqlite3
from collections.abc import Collection
from typing import Any

from outbox.errors import SchemaMismatch, TopologyMismatch
from outbox.transports.base import argument_mismatch, raise_together
from outbox.transports.matching import KINDS
from outbox.transports.routes import (
    RouteState,
    RoutingExchange,
    next_exchanges,
    route_states,
)
from outbox.transports.sqlite import observers, routing
from outbox.transports.topology import (
    NO_DELIVERY_LIMIT,
    Exchange,
    Queue,
    Topology,
)

APPLICATION_ID = 0x6F75_7462
VERSION = 1

_DEAD_LETTERING = frozenset(
    {
        "x-overflow",
        "x-dead-letter-strategy",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
    }
)

_SCHEMA = """
CREATE TABLE exchanges (name TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queues (name TEXT PRIMARY KEY, arguments TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE bindings (
    exchange TEXT NOT NULL, queue TEXT NOT NULL, pattern TEXT NOT NULL,
    PRIMARY KEY (exchange, queue, pattern)
) WITHOUT ROWID;
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, lease_until INTEGER NOT NULL
);
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    owner INTEGER,
    rank INTEGER NOT NULL,
    expires_at INTEGER,
    redelivered INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    properties TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX messages_ready ON messages (queue, rank DESC, seq) WHERE owner IS NULL;
CREATE INDEX messages_expiring ON messages (expires_at)
    WHERE owner IS NULL AND expires_at IS NOT NULL;
CREATE INDEX messages_leased ON messages (owner) WHERE owner IS NOT NULL;
"""

_LATER = {"observed_waiting": observers.TABLES, "alternate_exchanges": routing.TABLES}
"""Tables that a file of an older version lacks, by the last of each that is made."""


def prepare(db: sqlite3.Connection) -> None:
    """
    Set *db* up, and create the tables if the file is empty.

    Raises SchemaMismatch if the file belongs to another program or another version.
    """
    db.row_factory = sqlite3.Row
    known = (one(db, "PRAGMA application_id"), one(db, "PRAGMA user_version"))
    empty = one(db, "SELECT count(*) FROM sqlite_master") == 0
    if not empty and known != (APPLICATION_ID, VERSION):
        raise SchemaMismatch("the broker's file belongs to another program or version")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if empty:
        db.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )
    for last, tables in _LATER.items():
        if one(db, "SELECT 1 FROM sqlite_master WHERE name = ?", last) is None:
            db.executescript(f"BEGIN IMMEDIATE; {tables} COMMIT;")


def declare(db: sqlite3.Connection, now: int, *, topology: Topology) -> None:
    """Declare *topology*, or raise TopologyMismatch; the caller then rolls back."""
    for exchange in topology.exchanges:
        _declare_exchange(db, exchange)
    for queue in topology.queues:
        arguments = json.dumps(queue.arguments, sort_keys=True)
        db.execute("INSERT OR IGNORE INTO queues VALUES (?, ?)", (queue.name, arguments))
        _upgrade(db, queue, arguments)
    verify(db, now, topology=topology)
    for binding in topology.bindings:
        require(db, "exchange", binding.exchange)
        require(db, "queue", binding.queue)
        routing.bind(db, binding)
    for each in topology.exchange_bindings:
        require(db, "exchange", each.source)
        require(db, "exchange", each.destination)
        routing.bind(db, each)


def _declare_exchange(db: sqlite3.Connection, exchange: Exchange) -> None:
    if exchange.kind not in KINDS:
        raise TopologyMismatch(
            f"exchange {exchange.name}: the embedded broker does not know its type "
            f"{exchange.kind}",
            argument=exchange.kind,
        )
    declared = db.execute(
        "INSERT OR IGNORE INTO exchanges VALUES (?, ?)", (exchange.name, exchange.kind)
    )
    if declared.rowcount and exchange.alternate:
        db.execute(
            "INSERT INTO alternate_exchanges VALUES (?, ?)", (exchange.name, exchange.alternate)
        )


def _upgrade(db: sqlite3.Connection, queue: Queue, arguments: str) -> None:
    """
    Give a queue that an older version declared the *arguments* of this version.

    Those are dead-lettering where the queue had none, and no delivery limit. No message is lost by
    either; a RabbitMQ queue would have to be deleted for it.
    """
    found = json.loads(one(db, "SELECT arguments FROM queues WHERE name = ?", queue.name))
    differing = {name for name, _ in found.items() ^ queue.arguments.items()}
    added = {name for name in differing - {"x-delivery-limit"} if name not in found}
    is_limit_removed = queue.arguments.get("x-delivery-limit", 0) == NO_DELIVERY_LIMIT
    changed_limit = {"x-delivery-limit"} if is_limit_removed else set()
    if differing and differing <= (added & _DEAD_LETTERING) | changed_limit:
        db.execute("UPDATE queues SET arguments = ? WHERE name = ?", (arguments, queue.name))


def verify(db: sqlite3.Connection, _now: int, *, topology: Topology) -> None:
    """Raise TopologyMismatch, with a line for each exchange or queue that is not as declared."""
    problems = []
    entities: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    for entity in entities:
        try:
            _compare(db, entity)
        except TopologyMismatch as problem:
            problems.append(problem)
    raise_together(problems)


def _compare(db: sqlite3.Connection, entity: Exchange | Queue) -> None:
    kind = "exchange" if isinstance(entity, Exchange) else "queue"
    require(db, kind, entity.name)
    if isinstance(entity, Exchange):
        found = one(db, "SELECT kind FROM exchanges WHERE name = ?", entity.name)
        if found != entity.kind:
            raise argument_mismatch(kind, entity.name, "type")
        alternate = "SELECT alternate FROM alternate_exchanges WHERE exchange = ?"
        if one(db, alternate, entity.name) != entity.alternate:
            raise argument_mismatch(kind, entity.name, "alternate-exchange")
        return
    found = one(db, "SELECT arguments FROM queues WHERE name = ?", entity.name)
    differences = json.loads(found).items() ^ entity.arguments.items()
    if differences:
        raise argument_mismatch(kind, entity.name, min(argument for argument, _ in differences))


def missing(topology: Topology) -> list[TopologyMismatch]:
    """Return an error for each entity of *topology*, for a file that does not exist."""
    return [
        TopologyMismatch(f"{kind} {entity.name} does not exist")
        for kind, entities in (("exchange", topology.exchanges), ("queue", topology.queues))
        for entity in entities
    ]


def queues(db: sqlite3.Connection, _now: int, *, prefix: str) -> list[str]:
    """Return the names of the queues that begin with *prefix*, sorted."""
    found = db.execute(
        "SELECT name FROM queues WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name", (prefix,)
    )
    return [name for (name,) in found]


def routes(
    db: sqlite3.Connection, _now: int, *, exchange: str, keys: Collection[str]
) -> dict[str, RouteState]:
    """Return, for each of *keys*, whether *exchange* leads it to a queue."""
    router = routing.Router(db)
    if not exchange:
        return {
            key: RouteState.BOUND if router.queues("", key, {}) else RouteState.NO_QUEUE
            for key in keys
        }
    found: dict[str, RoutingExchange] = {}
    names = [exchange]  # it grows while it is read
    for name in names:
        if (answer := router.exchange(name)) is not None:
            found[name] = answer
            names += [each for each in dict.fromkeys(next_exchanges(answer)) if each not in names]
    return route_states(exchange, keys, found)


def require(db: sqlite3.Connection, kind: str, name: str) -> None:
    """Raise TopologyMismatch if no exchange or queue (*kind*) of that *name* exists."""
    table = {"exchange": "exchanges", "queue": "queues"}[kind]
    if one(db, f"SELECT 1 FROM {table} WHERE name = ?", name) is None:
        raise TopologyMismatch(f"{kind} {name} does not exist")


def one(db: sqlite3.Connection, statement: str, *values: Any) -> Any:
    """Return the first value of the first row, or None."""
    row = db.execute(statement, values).fetchone()
    return None if row is None else row[0]


def changed(db: sqlite3.Connection, statement: str, *values: Any) -> bool:
    """Return whether the statement changed its row."""
    return db.execute(statement, values).rowcount == 1
