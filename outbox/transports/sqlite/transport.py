"""
A broker in one SQLite file, for processes of one host.

It keeps those promises of RabbitMQ that this project uses:

- A confirmed message is on disk (WAL, synchronous FULL) in every queue bound to its key.
  Deliveries and acks reach the disk with the next publish, or at a checkpoint: a loss of power may
  undo the last of them, and their messages are delivered again.
  A batch is published in one transaction, completely or not at all.
- A message is leased to its subscription, which extends all its leases together while it runs.
  When a process dies, its messages are delivered again after the lease expires.
- Settling fails if the lease was lost, as with a lost connection; the message is delivered again.
- A subscription that ends counts as a failed delivery; a release does not (as in RabbitMQ 4.3).
- A retry is one transaction, which stores the copy and deletes the original.
- A queue with a single active consumer delivers only to its oldest live subscription.
- Higher priorities are always delivered first; one priority in the order of publishing.

Limits:

- One host, and no network file system: WAL needs shared memory, and `FileLock` needs `flock`.
  The file, its `-wal`, `-shm` and `-lock` belong together.
- One writer at a time. Subscriptions poll for new messages, after some time every *poll*.
- Retries and expired messages move only while a subscription to any queue of the file exists.
- Leases follow the wall clock: a clock that jumps ahead by more than a lease causes redeliveries.
- A handler that blocks the event loop for longer than a lease loses it.
- The file does not shrink; SQLite reuses its free pages.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from outbox.database.sqlite_file import real_file
from outbox.errors import BrokerUnavailable
from outbox.transports.base import (
    ConnectionCounter,
    NoCounter,
    Outcome,
    QueueDepth,
    raise_together,
)
from outbox.transports.inspection import Act, Answer, BrokerFacts, Permission
from outbox.transports.sqlite import messages as message_store
from outbox.transports.sqlite import schema, topology_removal
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.sqlite.observation import SqliteObservation
from outbox.transports.sqlite.subscription import Intervals, SqliteSubscription
from outbox.transports.topology import Binding, Topology
from outbox.wire.codec import WireMessage

LEASE = timedelta(seconds=10)
POLL = timedelta(milliseconds=50)


class SqliteTransport:
    """
    The broker in the file at *path*, which is created when it is first used.

    Args:
        lease: How long after the end of a process its messages are delivered again.
        poll: Longest interval at which a subscription without messages polls for new ones.
        connections: Counts how many times this transport has the file open.

    Raises ConfigurationError if the file may also be opened by a name in another place.

    """

    def __init__(
        self,
        path: Path,
        *,
        lease: timedelta = LEASE,
        poll: timedelta = POLL,
        connections: ConnectionCounter | None = None,
    ) -> None:
        self._path = real_file(path, setting="MQ_BROKER_URL")
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
            await connection.write(partial(schema.declare, topology=topology))

    async def verify(self, topology: Topology) -> list[str]:
        if not self._path.exists():
            raise_together(schema.missing(topology))
        async with self._connection() as connection:
            await connection.read(partial(schema.verify, topology=topology))
        return []

    async def depth(self, queue: str) -> QueueDepth | None:
        if not self._path.exists():
            return None
        async with self._connection() as connection:
            return await connection.read(partial(message_store.depth, queue=queue))

    async def remove(self, topology: Topology) -> list[str]:
        if not self._path.exists():
            return []
        async with self._connection() as connection:
            return await connection.write(partial(topology_removal.remove, topology=topology))

    async def inspect(self, acts: Sequence[Act]) -> BrokerFacts:
        # It has no users: a process that may write to the file may do everything.
        return BrokerFacts(
            product="SQLite",
            version=sqlite3.sqlite_version,
            answers=[Answer(act, Permission.GRANTED) for act in acts],
        )

    @asynccontextmanager
    async def observe(
        self, bindings: Sequence[Binding], *, name: str, bodies: bool = False
    ) -> AsyncIterator["SqliteObservation"]:
        del name  # the id of the observer is unique
        async with self._connection() as connection:
            observation = SqliteObservation(
                connection, bindings, bodies=bodies, intervals=self._intervals
            )
            try:
                await observation.start()
                yield observation
            finally:
                await observation.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[SqliteConnection]:
        connection = SqliteConnection(
            self._path, prepare=schema.prepare, connections=self._connections
        )
        try:
            yield connection
        finally:
            await connection.close()


class SqlitePublisher:
    """Publishes on its own connection."""

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection

    async def ready(self) -> None:
        await self._connection.write(_check_writable)

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        seconds = within.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._connection.write(
                    partial(message_store.publish, messages=tuple(messages)), wait=seconds
                )
        except (BrokerUnavailable, TimeoutError):
            return [Outcome.UNKNOWN] * len(messages)


def _check_writable(_db: sqlite3.Connection, _now: int) -> None:
    """Do nothing: an empty write transaction shows that the file can be written to."""
