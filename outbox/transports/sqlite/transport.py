"""
A broker in one SQLite file, for processes of one host.

It keeps the promises of RabbitMQ as far as this project uses them:

- A confirmed message is on disk (WAL, synchronous FULL) in every queue bound to its key.
  A batch is published in one transaction: whole or not at all.
- A delivery is leased to its subscription, which extends all its leases at once while it lives.
  When a process dies, its messages come again as soon as the lease is over.
- A lease that was lost makes settling fail, as a lost connection does; the message comes again.
- Only a subscription that ends counts as a failed delivery; a release does not (as RabbitMQ 4.3).
- A retry is one transaction: the copy is there and the original is gone.
- Of a queue with a single active consumer the oldest subscription that lives gets everything.
- Higher priorities come first, always; within one, the order of publishing.

Limits:

- One host, and no network file system: WAL needs shared memory, and the lock beside the file
  needs `flock`. The file, its `-wal`, `-shm` and `-lock` belong together.
- One writer at a time. Consumers find new messages by looking every *poll*.
- Retries and expired messages move while anybody subscribes to any queue of the file.
- Leases follow the wall clock: a clock that jumps ahead by more than a lease delivers twice.
- A handler that blocks the event loop for longer than a lease loses it.
- The file does not shrink; its free pages are used again.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from outbox.errors import BrokerUnavailable
from outbox.transports.base import ConnectionCounter, NoCounter, Outcome, QueueDepth
from outbox.transports.sqlite import messages as sqlite_store
from outbox.transports.sqlite import schema as sqlite_schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.sqlite.subscription import Intervals, SqliteSubscription
from outbox.transports.topology import Topology
from outbox.wire.codec import WireMessage

LEASE = timedelta(seconds=10)
POLL = timedelta(milliseconds=50)


class SqliteTransport:
    """
    The broker in the file at *path*, which is made when it is first used.

    Args:
        lease: How long after its death the messages of a process come again.
        poll: How often a subscription without messages looks for new ones.
        connections: Counts how often this transport has the file open.

    """

    def __init__(
        self,
        path: Path,
        *,
        lease: timedelta = LEASE,
        poll: timedelta = POLL,
        connections: ConnectionCounter | None = None,
    ) -> None:
        self._path = path
        self._connections = connections or NoCounter()
        self._intervals = Intervals(lease, poll)

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator["SqlitePublisher"]:
        async with self._connection() as connection:
            yield SqlitePublisher(connection)

    @asynccontextmanager
    async def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AsyncIterator["SqliteSubscription"]:
        async with self._connection() as connection:
            subscription = SqliteSubscription(
                connection, queue, prefetch=prefetch, ordered=ordered, intervals=self._intervals
            )
            try:
                await subscription.start()
                yield subscription
            finally:
                await subscription.close()

    async def declare(self, topology: Topology) -> None:
        async with self._connection() as connection:
            await connection.write(partial(sqlite_schema.declare, topology=topology))

    async def verify(self, topology: Topology) -> list[str]:
        async with self._connection() as connection:
            await connection.read(partial(sqlite_schema.verify, topology=topology))
        return []

    async def depth(self, queue: str) -> QueueDepth | None:
        async with self._connection() as connection:
            return await connection.read(partial(sqlite_store.depth, queue=queue))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[SqliteConnection]:
        connection = SqliteConnection(
            self._path, prepare=sqlite_schema.prepare, connections=self._connections
        )
        try:
            yield connection
        finally:
            await connection.close()


class SqlitePublisher:
    """Publishes on a connection of its own."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection

    async def ready(self) -> None:
        await self._connection.write(_nothing)

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        seconds = within.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._connection.write(
                    partial(sqlite_store.publish, messages=tuple(messages)), wait=seconds
                )
        except (BrokerUnavailable, TimeoutError):
            return [Outcome.UNKNOWN] * len(messages)


def _nothing(_db: sqlite3.Connection, _now: int) -> None:
    """Do nothing: a transaction of it shows that the file can be written to."""
