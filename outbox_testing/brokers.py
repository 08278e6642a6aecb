"""
Brokers from whose queues a test takes messages, one call for each take.

A subscription would be sent messages at some time. After a take that finds none the queue is
empty, and a test needs no wait to know that.
"""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from outbox import redis_urls
from outbox.errors import ConfigurationError
from outbox.settings import SharedSettings
from outbox.transports.delivery import Delivery
from outbox.transports.sqlite import consumers, messages, schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.topology import Topology

_FOR_EVER = 100 * 365 * 24 * 3600 * 1000
"""Milliseconds of a lease that no clock ends."""


class PulledQueues(Protocol):
    """Queues of a broker; every method raises BrokerUnavailable."""

    async def pull(self, queue: str, limit: int) -> list[Delivery]:
        """Take up to *limit* messages of *queue*; none if it is empty."""

    async def ack(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Ack *deliveries*, which came from *queue*."""

    async def delete(self, topology: Topology) -> None:
        """Delete all of *topology*, with the messages in it."""


def pulled_queues(settings: SharedSettings) -> AbstractAsyncContextManager[PulledQueues]:
    """
    The queues of the configured broker; only the packages of that broker are imported.

    Raises ConfigurationError for Redis.
    """
    first = settings.brokers[0]
    if first.scheme == "sqlite":
        return _embedded(Path(first.path[1:]))
    if first.scheme in redis_urls.SCHEMES:
        raise ConfigurationError(
            "MQ_BROKER_URL: tests of this kind take messages from RabbitMQ or a SQLite file: use"
            " amqp or sqlite"
        )

    from outbox_testing.rabbitmq import rabbitmq_queues  # noqa: PLC0415

    return rabbitmq_queues(settings.brokers)


@asynccontextmanager
async def _embedded(file: Path) -> AsyncIterator["EmbeddedQueues"]:
    connection = SqliteConnection(file, prepare=schema.prepare)
    try:
        yield EmbeddedQueues(connection)
    finally:
        await connection.close()


class EmbeddedQueues:
    """The queues of the embedded broker, each with one consumer that never loses its lease."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._owners: dict[str, int] = {}

    async def pull(self, queue: str, limit: int) -> list[Delivery]:
        if queue not in self._owners:
            join = partial(consumers.join, queue=queue, lease=_FOR_EVER)
            self._owners[queue] = await self._connection.write(join)
        claim = partial(
            messages.claim,
            owner=self._owners[queue],
            queue=queue,
            limit=limit,
            lease=_FOR_EVER,
        )
        claimed = await self._connection.write(claim, durable=False)
        return [] if claimed is None else claimed.deliveries

    async def ack(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        seqs = [delivery.tag for delivery in deliveries]
        ack = partial(messages.ack, owner=self._owners[queue], seqs=seqs)
        await self._connection.write(ack, durable=False)

    async def delete(self, topology: Topology) -> None:
        await self._connection.write(partial(_delete, topology=topology), durable=False)


def _delete(db: sqlite3.Connection, _now: int, *, topology: Topology) -> None:
    for queue in topology.queues:
        for table, column in _TABLES_OF_QUEUES:
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (queue.name,))
    for exchange in topology.exchanges:
        db.execute("DELETE FROM exchanges WHERE name = ?", (exchange.name,))


_TABLES_OF_QUEUES: Sequence[tuple[str, Any]] = (
    ("messages", "queue"),
    ("consumers", "queue"),
    ("bindings", "queue"),
    ("queues", "name"),
)
