"""
Deliveries of one queue of the embedded broker.

Two background tasks run until the subscription ends: one leases messages into memory, the other
extends the lease. If either fails, the subscription is lost, and `take` raises BrokerUnavailable.
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
from outbox.transports.capacity import Capacity
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.sqlite import consumers
from outbox.transports.sqlite import messages as message_store
from outbox.transports.sqlite.connection import CLOSE_SECONDS, Operation, SqliteConnection
from outbox.wire.codec import WireMessage

_LEASE_LOST = "the lease was lost"


@dataclass(frozen=True, slots=True)
class Intervals:
    """Length of a lease, and the longest interval of polling."""

    lease: timedelta
    poll: timedelta

    def pause(self, previous: timedelta) -> timedelta:
        """The pause once the queue is empty; the *previous* one is zero after messages."""
        return self.poll if previous else self.poll / 2

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
        self._capacity = Capacity(prefetch)
        self._ordered = ordered
        self._intervals = intervals
        self._owner = 0
        self._buffer = DeliveryBuffer()
        self._unsettled: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """
        Start receiving.

        Raises TopologyMismatch if the queue does not exist.
        """
        self._owner = await self._connection.write(
            partial(consumers.join, queue=self._queue, lease=self._intervals.lease_milliseconds)
        )
        # No TaskGroup: it would wrap exceptions of the caller's block in a group.
        self._tasks = [
            asyncio.create_task(self._run_until_lost(activity))
            for activity in (self._fetch, self._extend_lease)
        ]

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self._buffer.take(limit)
        self._unsettled.update(delivery.tag for delivery in taken)
        return taken

    async def raise_prefetch(self, prefetch: int) -> None:
        self._capacity.prefetch = max(self._capacity.prefetch, prefetch)
        self._capacity_changed()

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        await _cancel(self._tasks[:1])
        if self._ordered:
            return
        with suppress(BrokerUnavailable):
            await self._connection.write(self._release_all, wait=CLOSE_SECONDS)

    async def close(self) -> None:
        """End the subscription; all its unsettled messages become ready again."""
        self._buffer.end()
        await _cancel(self._tasks)
        if not self._owner:
            return
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.write(self._leave, wait=CLOSE_SECONDS)

    async def ack(self, *deliveries: Delivery) -> None:
        seqs = [delivery.tag for delivery in deliveries]
        if seqs:
            acking = partial(message_store.ack, owner=self._owner, seqs=seqs)
            await self._settle(seqs, acking, durable=False)

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        seq = delivery.tag
        return await self._settle(
            [seq], partial(message_store.replace, owner=self._owner, seq=seq, copy=copy)
        )

    async def release(self, delivery: Delivery) -> None:
        seq = delivery.tag
        await self._settle([seq], partial(message_store.release, owner=self._owner, seq=seq))

    async def _settle(
        self, seqs: Sequence[int], operation: Operation[Outcome | None], *, durable: bool = True
    ) -> Outcome:
        try:
            outcome = await self._connection.write(operation, durable=durable)
        except BrokerUnavailable:
            self._fail()
            raise
        except asyncio.CancelledError:
            # The operation runs even if its caller is cancelled.
            self._settled(seqs)
            raise
        if outcome is None:
            self._fail()
            raise BrokerUnavailable(_LEASE_LOST)
        if outcome is Outcome.ACKED:
            self._settled(seqs)
        return outcome

    def _settled(self, seqs: Sequence[int]) -> None:
        self._unsettled.difference_update(seqs)
        self._capacity_changed()

    async def _fetch(self) -> None:
        pause, is_empty = timedelta(0), True
        while True:
            await self._capacity.wait(longest=self._intervals.poll)
            if is_empty and not await self._has_work():
                pause = self._intervals.pause(pause)
            else:
                is_empty = await self._claim()
                pause = self._intervals.pause(timedelta(0)) if is_empty else timedelta(0)
            await asyncio.sleep(pause.total_seconds())

    async def _has_work(self) -> bool:
        return await self._connection.read(
            partial(message_store.has_work, owner=self._owner, queue=self._queue)
        )

    async def _claim(self) -> bool:
        """
        Lease messages into the buffer, and return whether the queue has no more of them.

        Then the next ones gather for a while: a consumer that takes each message as it comes
        begins many small transactions, and keeps producers from the database's file.
        """
        limit = self._free()
        claimed = await self._connection.write(
            partial(
                message_store.claim,
                owner=self._owner,
                queue=self._queue,
                limit=limit,
                lease=self._intervals.lease_milliseconds,
            ),
            durable=False,
        )
        if claimed is None:
            raise BrokerUnavailable(_LEASE_LOST)
        self._buffer.put(claimed.deliveries)
        self._capacity_changed()
        if claimed.overdue:
            await self._connection.write(message_store.sweep)
        return len(claimed.deliveries) < limit and not claimed.overdue

    def _capacity_changed(self) -> None:
        self._capacity.changed(free=self._free())

    def _free(self) -> int:
        return self._capacity.prefetch - len(self._buffer) - len(self._unsettled)

    async def _extend_lease(self) -> None:
        while True:
            await asyncio.sleep(self._intervals.lease.total_seconds() / 4)
            if not await self._connection.write(
                partial(
                    consumers.extend, owner=self._owner, lease=self._intervals.lease_milliseconds
                ),
                durable=False,
            ):
                raise BrokerUnavailable(_LEASE_LOST)

    async def _run_until_lost(self, activity: Callable[[], Awaitable[None]]) -> None:
        try:
            with suppress(BrokerUnavailable):
                await activity()
        finally:
            if not self._buffer.ended:
                self._fail()

    def _fail(self) -> None:
        self._buffer.fail(_LEASE_LOST)

    def _release_all(self, db: sqlite3.Connection, now: int) -> None:
        message_store.release_all(db, now, owner=self._owner, keep=self._unsettled)

    def _leave(self, db: sqlite3.Connection, now: int) -> None:
        self._release_all(db, now)
        message_store.leave(db, now, owner=self._owner)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
