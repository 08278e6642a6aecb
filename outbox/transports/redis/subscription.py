"""
Deliveries of one queue, leased to this subscription.

Two background tasks run until the subscription ends: one leases messages into memory, the other
extends the lease. If either fails, the subscription is lost, and `take` raises BrokerUnavailable.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.capacity import Capacity
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.transports.redis.entries import Place
from outbox.transports.redis.messages import Messages
from outbox.wire.codec import WireMessage

_LEASE_LOST = "the lease was lost"
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Length of a lease, and the longest interval of polling."""

    lease: timedelta
    poll: timedelta


class RedisSubscription:
    """Deliveries of one queue, leased to this subscription while its background tasks run."""

    def __init__(
        self,
        messages: Messages,
        queue: str,
        *,
        prefetch: int,
        ordered: bool,
        intervals: Intervals,
    ) -> None:
        self._messages = messages
        self._queue = queue
        self._capacity = Capacity(prefetch)
        self._ordered = ordered
        self._intervals = intervals
        # Random: see `scripts`.
        self._owner = secrets.token_hex(8)
        self._has_joined = False
        self._is_closed = False
        self._buffer = DeliveryBuffer()
        # Those of all deliveries that are not settled, and of those that were taken.
        self._places: dict[int, Place] = {}
        self._taken: set[int] = set()
        self._next_tag = 1
        # Held during a claim. A claim that was cancelled could take effect after its end.
        self._claiming = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """
        Start receiving.

        Raises TopologyMismatch if the queue does not exist.
        """
        await self._messages.join(self._queue, self._owner, lease=self._intervals.lease)
        self._has_joined = True
        # No TaskGroup: it would wrap exceptions of the caller's block in a group.
        self._tasks = [
            asyncio.create_task(self._run_until_lost(activity))
            for activity in (self._fetch, self._extend_lease)
        ]

    async def take(self, limit: int) -> list[Delivery]:
        taken = await self._buffer.take(limit)
        self._taken.update(delivery.tag for delivery in taken)
        return taken

    async def raise_prefetch(self, prefetch: int) -> None:
        self._capacity.prefetch = max(self._capacity.prefetch, prefetch)
        self._capacity_changed()

    async def stop(self) -> None:
        if self._buffer.ended:
            return
        self._buffer.end()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._end_fetching()
                if self._ordered:
                    return
                await self._messages.give_back(
                    self._queue, self._owner, keep=self._places_of_taken()
                )
        for delivery in self._buffer.drain():
            self._places.pop(delivery.tag, None)

    async def close(self) -> None:
        """End the subscription; all its unsettled messages become ready again."""
        self._buffer.end()
        self._is_closed = True
        if self._has_joined:
            with suppress(BrokerUnavailable, TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._end_fetching()
                    await self._messages.leave(
                        self._queue, self._owner, failed=self._places_of_taken()
                    )
        await _cancel(self._tasks)

    async def ack(self, *deliveries: Delivery) -> None:
        if deliveries:
            tags = [delivery.tag for delivery in deliveries]
            places = self._held(tags)
            await self._settle(tags, self._messages.ack(self._queue, self._owner, places))

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        [place] = self._held([delivery.tag])
        replacing = self._messages.replace(self._queue, self._owner, place, copy)
        return await self._settle([delivery.tag], replacing)

    async def release(self, delivery: Delivery) -> None:
        [place] = self._held([delivery.tag])
        releasing = self._messages.release(self._queue, self._owner, place)
        await self._settle([delivery.tag], releasing)

    def _held(self, tags: Sequence[int]) -> list[Place]:
        try:
            return [self._places[tag] for tag in tags]
        except KeyError:
            raise self._fail() from None

    def _places_of_taken(self) -> list[Place]:
        return [self._places[tag] for tag in self._taken]

    async def _settle(self, tags: Sequence[int], settling: Awaitable[Outcome | None]) -> Outcome:
        try:
            outcome = await settling
        except BrokerUnavailable as error:
            self._fail(error)
            raise
        except asyncio.CancelledError:
            # Whether the server has settled them is not known: they are delivered again if not.
            self._fail()
            raise
        if outcome is None:
            raise self._fail()
        if outcome is Outcome.ACKED:
            self._taken.difference_update(tags)
            for tag in tags:
                self._places.pop(tag, None)
            self._capacity_changed()
        return outcome

    async def _fetch(self) -> None:
        # The client may swallow a cancellation that comes with the end of a command.
        while not self._buffer.ended:
            await self._capacity.wait(longest=self._intervals.poll)
            async with self._claiming:
                last_ids = await self._claim()
            if last_ids is None:
                continue
            if last_ids:
                await self._messages.wait(self._queue, last_ids, longest=self._intervals.poll)
            else:
                await asyncio.sleep(self._intervals.poll.total_seconds())

    async def _claim(self) -> Sequence[bytes] | None:
        """
        Lease messages into the buffer.

        Returns None if the queue may have more of them, and otherwise the last ids of its streams;
        none for a subscription that stands by or ends.
        """
        if self._buffer.ended:
            return []
        limit = self._free()
        claimed = await self._messages.claim(
            self._queue,
            self._owner,
            limit=limit,
            lease=self._intervals.lease,
            first_tag=self._next_tag,
        )
        if claimed is None:
            raise BrokerUnavailable(_LEASE_LOST)
        self._next_tag += len(claimed.entries)
        self._places.update((delivery.tag, place) for place, delivery in claimed.entries)
        self._buffer.put(delivery for _, delivery in claimed.entries)
        self._capacity_changed()
        if claimed.overdue:
            await self._messages.sweep()
        has_more = claimed.overdue or len(claimed.entries) >= limit
        return None if has_more else claimed.last_ids

    def _capacity_changed(self) -> None:
        self._capacity.changed(free=self._free())

    def _free(self) -> int:
        return self._capacity.prefetch - len(self._places)

    async def _extend_lease(self) -> None:
        while not self._is_closed:
            await asyncio.sleep(self._intervals.lease.total_seconds() / 4)
            if not await self._messages.extend(self._owner, lease=self._intervals.lease):
                raise BrokerUnavailable(_LEASE_LOST)

    async def _end_fetching(self) -> None:
        async with self._claiming:
            await _cancel(self._tasks[:1])

    async def _run_until_lost(self, activity: Callable[[], Awaitable[None]]) -> None:
        lost = None
        try:
            await activity()
        except BrokerUnavailable as error:
            lost = error
        finally:
            if not self._buffer.ended:
                self._fail(lost)

    def _fail(self, reason: BrokerUnavailable | None = None) -> BrokerUnavailable:
        lost = reason or BrokerUnavailable(_LEASE_LOST)
        self._buffer.fail(str(lost), refused=lost.refused)
        return lost


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
