"""
Where the embedded broker routes messages, by the kinds of its exchanges.

    an exchange ──takes──▶ queues, and other exchanges, which route the message in turn
                ──takes nothing──▶ alternate exchange

Bindings of queues by a routing key are in the table `bindings`, all others in `further_bindings`.
Programs of an older version ignore that one: they return messages that only it would route, and
the relay publishes those again.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from outbox.transports.matching import has_headers, takes
from outbox.transports.routes import Link, RoutingExchange
from outbox.transports.topology import Binding, ExchangeBinding, asked_headers

TABLES = """
CREATE TABLE IF NOT EXISTS further_bindings (
    source TEXT NOT NULL, destination TEXT NOT NULL, to_exchange INTEGER NOT NULL,
    pattern TEXT NOT NULL, arguments TEXT NOT NULL,
    PRIMARY KEY (source, destination, to_exchange, pattern, arguments)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alternate_exchanges (
    exchange TEXT PRIMARY KEY, alternate TEXT NOT NULL
) WITHOUT ROWID;
"""

_LINKS = """
SELECT pattern, queue AS target, 0 AS to_exchange, '{}' AS arguments
FROM bindings WHERE exchange = :name
UNION ALL
SELECT pattern, destination, to_exchange, arguments FROM further_bindings WHERE source = :name
"""

_EXCHANGE = """
SELECT kind, alternate FROM exchanges LEFT JOIN alternate_exchanges ON exchange = name
WHERE name = ?
"""

_FURTHER = """
SELECT source, destination, pattern, arguments FROM further_bindings WHERE to_exchange = ?
"""


class Router:
    """Routes messages in one transaction; it reads each exchange once."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._exchanges: dict[str, RoutingExchange | None] = {}
        self._queues: dict[tuple[str, str], list[str]] = {}

    def exchange(self, name: str) -> RoutingExchange | None:
        """Return the exchange *name*; None if it does not exist."""
        if name not in self._exchanges:
            self._exchanges[name] = self._read(name)
        return self._exchanges[name]

    def queues(self, exchange: str, routing_key: str, headers: Mapping[str, Any]) -> list[str]:
        """Return the queues that a message goes to; none if the exchange does not exist."""
        target = (exchange, routing_key)
        if target not in self._queues:
            found, reads_headers = self._route(exchange, routing_key, headers)
            if reads_headers:
                return found
            self._queues[target] = found
        return self._queues[target]

    def _route(
        self, exchange: str, routing_key: str, headers: Mapping[str, Any]
    ) -> tuple[list[str], bool]:
        """Return the queues, and whether the headers decide about them."""
        if not exchange:
            named = self._db.execute("SELECT name FROM queues WHERE name = ?", (routing_key,))
            return [name for (name,) in named], False
        queues: set[str] = set()
        reads_headers = False
        names = [exchange]  # it grows while it is read
        for name in names:
            if (found := self.exchange(name)) is None:
                continue
            reads_headers |= found.kind == "headers"
            links = [each for each in found.links if _follows(found, each, routing_key, headers)]
            queues |= {each.target for each in links if not each.to_exchange}
            further = [each.target for each in links if each.to_exchange]
            if found.alternate and not links:
                further = [found.alternate]
            names += [each for each in dict.fromkeys(further) if each not in names]
        return sorted(queues), reads_headers

    def _read(self, name: str) -> RoutingExchange | None:
        row = self._db.execute(_EXCHANGE, (name,)).fetchone()
        if row is None:
            return None
        links = [
            Link(
                each["pattern"],
                each["target"],
                bool(each["to_exchange"]),
                *asked_headers(json.loads(each["arguments"])),
            )
            for each in self._db.execute(_LINKS, {"name": name})
        ]
        return RoutingExchange(row["kind"], links, row["alternate"])


def _follows(
    exchange: RoutingExchange, link: Link, routing_key: str, headers: Mapping[str, Any]
) -> bool:
    if exchange.kind == "headers":
        return has_headers(link.headers, link.match, headers)
    return takes(exchange.kind, link.pattern, routing_key)


def bind(db: sqlite3.Connection, binding: Binding | ExchangeBinding) -> None:
    """Store *binding*; it may be there already."""
    if isinstance(binding, Binding) and not binding.headers:
        db.execute(
            "INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)",
            (binding.exchange, binding.queue, binding.pattern),
        )
    else:
        db.execute("INSERT OR IGNORE INTO further_bindings VALUES (?, ?, ?, ?, ?)", _row(binding))


def unbind(db: sqlite3.Connection, binding: Binding | ExchangeBinding) -> None:
    """Remove *binding*, which may not exist."""
    if isinstance(binding, Binding) and not binding.headers:
        db.execute(
            "DELETE FROM bindings WHERE exchange = ? AND queue = ? AND pattern = ?",
            (binding.exchange, binding.queue, binding.pattern),
        )
    else:
        db.execute(
            "DELETE FROM further_bindings WHERE source = ? AND destination = ? AND "
            "to_exchange = ? AND pattern = ? AND arguments = ?",
            _row(binding),
        )


def _row(binding: Binding | ExchangeBinding) -> tuple[str, str, int, str, str]:
    arguments = json.dumps(binding.arguments, sort_keys=True)
    match binding:
        case Binding(exchange, queue, pattern):
            return (exchange, queue, 0, pattern, arguments)
        case ExchangeBinding(source, destination, pattern):
            return (source, destination, 1, pattern, arguments)


def bindings(db: sqlite3.Connection, _now: int) -> set[Binding]:
    """Return all bindings of queues."""
    plain = db.execute("SELECT exchange, queue, pattern FROM bindings")
    return {
        *(Binding(*row) for row in plain),
        *(Binding(*row[:3], *asked_headers(json.loads(row[3]))) for row in _further(db, 0)),
    }


def exchange_bindings(db: sqlite3.Connection, _now: int) -> set[ExchangeBinding]:
    """Return all bindings of exchanges."""
    return {
        ExchangeBinding(*row[:3], *asked_headers(json.loads(row[3]))) for row in _further(db, 1)
    }


def _further(db: sqlite3.Connection, to_exchange: int) -> Sequence[tuple[str, str, str, str]]:
    return [tuple(row) for row in db.execute(_FURTHER, (to_exchange,))]
