"""
Deliveries of one queue of the embedded broker.

Two background tasks run while the subscription lives: one leases messages into memory, one extends
the lease. When either fails the subscription is lost: `next` raises, as after a lost connection.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from outbox.codec import retried
from outbox.errors import BrokerUnavailable
from outbox.topology import ConsumerQueues
from outbox.transports import sqlite_store as store
from outbox.transports.base import Delivery, Outcome
from outbox.transports.sqlite_connection import CLOSE_SECONDS, Operation, SqliteConnection

_LEASE_LOST = "the lease was lost"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a subscription does what it does by itself."""

    lease: timedelta
    poll: timedelta

    @property
    def lease_milliseconds(self) -> int:
        return self.lease // timedelta(milliseconds=1)


class SqliteSubscription:
    """Deliveries of one queue, leased to this subscription while its background tasks run."""

    def __init__(
        self, connection: SqliteConnection, queues: ConsumerQueues, *, prefetch: int, pace: Pace
    ) -> None:
        self._connection = connection
        self._queues = queues
        self._prefetch = prefetch
        self._pace = pace
        self._owner = 0
        self._inbox: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._given: set[int] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._lost = False

    async def start(self) -> None:
        """
        Begin to receive.

        Raises TopologyMismatch if the queue does not exist.
        """
        self._owner = await self._connection.write(
            partial(store.join, queue=self._queues.name, lease=self._pace.lease_milliseconds)
        )
        # No TaskGroup: it would wrap whatever the caller's block raises.
        self._tasks = [
            asyncio.create_task(self._until_lost(activity))
            for activity in (self._fetch, self._stay_alive)
        ]

    async def next(self) -> Delivery | None:
        delivery = None if self._stopped else await self._inbox.get()
        if delivery is not None and not self._stopped:
            self._given.add(delivery.tag)
            return delivery
        self._inbox.put_nowait(None)
        if self._lost:
            raise BrokerUnavailable(_LEASE_LOST)
        return None

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._empty_inbox()
        await _cancelled(self._tasks[:1])
        with suppress(BrokerUnavailable):
            await self._connection.write(self._hand_back, wait=CLOSE_SECONDS)

    async def close(self) -> None:
        """End the subscription: everything unsettled is ready again."""
        self._stopped = True
        await _cancelled(self._tasks)
        if not self._owner:
            return
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.write(self._leave, wait=CLOSE_SECONDS)

    async def ack(self, delivery: Delivery) -> None:
        await self._settle(delivery, partial(store.ack, owner=self._owner, seq=delivery.tag))

    async def retry(self, delivery: Delivery, *, attempt: int, delay: timedelta) -> Outcome:
        if delay not in self._queues.retry_queues:
            raise ValueError("delay is not one of the queue's")
        copy = retried(delivery.message, queue=self._queues.retry_queues[delay], attempt=attempt)
        return await self._settle(
            delivery, partial(store.retry, owner=self._owner, seq=delivery.tag, copy=copy)
        )

    async def release(self, delivery: Delivery) -> None:
        await self._settle(delivery, partial(store.release, owner=self._owner, seq=delivery.tag))

    async def _settle(self, delivery: Delivery, operation: Operation[Outcome | None]) -> Outcome:
        try:
            outcome = await self._connection.write(operation)
        except BrokerUnavailable:
            self._lose()
            raise
        except asyncio.CancelledError:
            # It is carried out all the same.
            self._settled(delivery)
            raise
        if outcome is None:
            self._lose()
            raise BrokerUnavailable(_LEASE_LOST)
        if outcome is Outcome.ACKED:
            self._settled(delivery)
        return outcome

    def _settled(self, delivery: Delivery) -> None:
        self._given.discard(delivery.tag)
        self._room.set()

    async def _fetch(self) -> None:
        found = False
        while True:
            await self._room.wait()
            found = (found or await self._work_waits()) and await self._claim()
            if not found:
                await asyncio.sleep(self._pace.poll.total_seconds())

    async def _work_waits(self) -> bool:
        return await self._connection.read(partial(store.work, queue=self._queues.name))

    async def _claim(self) -> bool:
        """Whether there were messages, which are then in the inbox."""
        deliveries = await self._connection.write(
            partial(
                store.claim,
                owner=self._owner,
                queue=self._queues.name,
                limit=self._free(),
                lease=self._pace.lease_milliseconds,
            )
        )
        if deliveries is None:
            raise BrokerUnavailable(_LEASE_LOST)
        for delivery in deliveries:
            self._inbox.put_nowait(delivery)
        if self._free() <= 0:
            self._room.clear()
        return bool(deliveries)

    def _free(self) -> int:
        return self._prefetch - self._inbox.qsize() - len(self._given)

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(self._pace.lease.total_seconds() / 4)
            if not await self._connection.write(
                partial(store.extend, owner=self._owner, lease=self._pace.lease_milliseconds)
            ):
                raise BrokerUnavailable(_LEASE_LOST)

    async def _until_lost(self, activity: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(BrokerUnavailable):
                await activity()
        finally:
            if not self._stopped:
                self._lose()

    def _lose(self) -> None:
        self._lost = True
        self._empty_inbox()

    def _empty_inbox(self) -> None:
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)

    def _hand_back(self, db: sqlite3.Connection, now: int) -> None:
        store.hand_back(db, now, owner=self._owner, keep=self._given)

    def _leave(self, db: sqlite3.Connection, now: int) -> None:
        self._hand_back(db, now)
        store.leave(db, now, owner=self._owner)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
