"""
Deliveries of one queue of the embedded broker.

Two background tasks run while the subscription lives: one leases messages into memory, one extends
the lease. When either fails the subscription is lost: `take` raises, as after a lost connection.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.sqlite import consumers
from outbox.transports.sqlite import messages as store
from outbox.transports.sqlite.connection import CLOSE_SECONDS, Operation, SqliteConnection
from outbox.wire.codec import WireMessage

_LEASE_LOST = "the lease was lost"


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often a subscription does what it does by itself."""

    lease: timedelta
    poll: timedelta

    @property
    def lease_milliseconds(self) -> int:
        return self.lease // timedelta(milliseconds=1)


class SqliteSubscription:
    """Deliveries of one queue, leased to this subscription while its background tasks run."""

    def __init__(
        self,
        connection: SqliteConnection,
        queue: str,
        *,
        prefetch: int,
        ordered: bool,
        intervals: Intervals,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._prefetch = prefetch
        self._ordered = ordered
        self._intervals = intervals
        self._owner = 0
        self._buffer = DeliveryBuffer()
        self._given: set[int] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """
        Begin to receive.

        Raises TopologyMismatch if the queue does not exist.
        """
        self._owner = await self._connection.write(
            partial(consumers.join, queue=self._queue, lease=self._intervals.lease_milliseconds)
        )
        # No TaskGroup: it would wrap whatever the caller's block raises.
        self._tasks = [
            asyncio.create_task(self._until_lost(activity))
            for activity in (self._fetch, self._stay_alive)
        ]

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self._buffer.take(limit)
        self._given.update(delivery.tag for delivery in taken)
        return taken

    async def raise_prefetch(self, prefetch: int) -> None:
        self._prefetch = max(self._prefetch, prefetch)
        self._room.set()

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        await _cancelled(self._tasks[:1])
        if self._ordered:
            return
        with suppress(BrokerUnavailable):
            await self._connection.write(self._hand_back, wait=CLOSE_SECONDS)

    async def close(self) -> None:
        """End the subscription: everything unsettled is ready again."""
        self._buffer.end()
        await _cancelled(self._tasks)
        if not self._owner:
            return
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.write(self._leave, wait=CLOSE_SECONDS)

    async def ack(self, *deliveries: Delivery) -> None:
        seqs = [delivery.tag for delivery in deliveries]
        if seqs:
            await self._settle(seqs, partial(store.ack, owner=self._owner, seqs=seqs))

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        seq = delivery.tag
        return await self._settle(
            [seq], partial(store.replace, owner=self._owner, seq=seq, copy=copy)
        )

    async def release(self, delivery: Delivery) -> None:
        seq = delivery.tag
        await self._settle([seq], partial(store.release, owner=self._owner, seq=seq))

    async def _settle(self, seqs: Sequence[int], operation: Operation[Outcome | None]) -> Outcome:
        try:
            outcome = await self._connection.write(operation)
        except BrokerUnavailable:
            self._lose()
            raise
        except asyncio.CancelledError:
            # It is carried out all the same.
            self._settled(seqs)
            raise
        if outcome is None:
            self._lose()
            raise BrokerUnavailable(_LEASE_LOST)
        if outcome is Outcome.ACKED:
            self._settled(seqs)
        return outcome

    def _settled(self, seqs: Sequence[int]) -> None:
        self._given.difference_update(seqs)
        self._room.set()

    async def _fetch(self) -> None:
        found = False
        while True:
            await self._room.wait()
            found = (found or await self._work_waits()) and await self._claim()
            if not found:
                await asyncio.sleep(self._intervals.poll.total_seconds())

    async def _work_waits(self) -> bool:
        return await self._connection.read(
            partial(store.work, owner=self._owner, queue=self._queue)
        )

    async def _claim(self) -> bool:
        """Whether there were messages, which are then in the inbox."""
        deliveries = await self._connection.write(
            partial(
                store.claim,
                owner=self._owner,
                queue=self._queue,
                limit=self._free(),
                lease=self._intervals.lease_milliseconds,
            )
        )
        if deliveries is None:
            raise BrokerUnavailable(_LEASE_LOST)
        self._buffer.put(deliveries)
        if self._free() <= 0:
            self._room.clear()
        return bool(deliveries)

    def _free(self) -> int:
        return self._prefetch - len(self._buffer) - len(self._given)

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(self._intervals.lease.total_seconds() / 4)
            if not await self._connection.write(
                partial(
                    consumers.extend, owner=self._owner, lease=self._intervals.lease_milliseconds
                )
            ):
                raise BrokerUnavailable(_LEASE_LOST)

    async def _until_lost(self, activity: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(BrokerUnavailable):
                await activity()
        finally:
            if not self._buffer.ended:
                self._lose()

    def _lose(self) -> None:
        self._buffer.lose(_LEASE_LOST)

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
