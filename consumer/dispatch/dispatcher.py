"""
Where the deliveries of one subscription are worked off.

    subscription ──take──▶ board ──unit──▶ attempt ──verdicts──▶ settlement
                             ▲                                       │
                             └──────────── looked at later ──────────┘

- Handlers run in tasks of their own, at most *concurrency* at a time.
- The first deliveries come one at a time, until there is one that had not been delivered before:
  a message that ends each process that takes it uses up its own delivery limit, and not that of
  its neighbours.
- What waits too long for its handler, because a circuit breaker is open, is exchanged for a fresh
  copy before the broker loses its patience.
"""

import asyncio
from datetime import timedelta
from functools import partial

from consumer.database_retry import LONGEST, DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.settlement import Settlement
from consumer.execution.executor import Executor
from consumer.execution.work_unit import WorkUnit
from consumer.verdict import Verdict, Wait, has_failed, is_failure
from outbox.errors import BrokerUnavailable, DatabaseUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded
from outbox.transports.base import Subscription

_TAKEN_AT_ONCE = 1_000


class Dispatcher:
    """
    Works off what *subscription* delivers, until it ends.

    Args:
        board: An empty one, which knows how its handlers have fared and is left empty.
        concurrency: How many units are handled at a time.
        prefetch: How many deliveries are taken ahead, once it is safe to.
        widened: Whether the subscription takes so many from the start.

    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        delivery_queue: DeliveryQueue,
        executor: Executor,
        settlement: Settlement,
        database_retry: DatabaseRetry,
        concurrency: int,
        prefetch: int,
        widened: bool,
    ) -> None:
        self._subscription = subscription
        self._delivery_queue = delivery_queue
        self._executor = executor
        self._settlement = settlement
        self._database_retry = database_retry
        self._free = concurrency
        self._prefetch = prefetch
        self._widened = widened
        self._leaving = asyncio.Event()
        self._ending = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """
        Return once *stop* is set and everything in flight is done, or the subscription is lost.

        Also returns when the database has been away for very long.
        """
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._leave_when(stop)),
                group.create_task(self._leave_when(self._leaving)),
                group.create_task(self._refresh()),
            ]
            try:
                await self._take_in(group)
            finally:
                self._ending.set()
                self._silence()
                for helper in helpers:
                    helper.cancel()
            await self._release()
        # What was in flight may have been put back meanwhile.
        await self._release()

    async def _take_in(self, group: asyncio.TaskGroup) -> None:
        try:
            while deliveries := await self._subscription.take(_TAKEN_AT_ONCE):
                self._delivery_queue.put(deliveries, self._now())
                self._begin(group)
                if not self._widened and not all(each.redelivered for each in deliveries):
                    await self._raise_prefetch()
        except BrokerUnavailable:
            # What was not acked comes again; of that, what was committed is dropped as duplicate.
            return

    async def _raise_prefetch(self) -> None:
        self._widened = True
        if self._prefetch > 1:
            await self._subscription.raise_prefetch(self._prefetch)

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begin as many units as there is room for, and come back when time allows more."""
        self._silence()
        while self._free and not self._ending.is_set():
            unit = self._delivery_queue.take(self._now())
            if unit is None:
                at = self._delivery_queue.take_at()
                if at is not None:
                    loop = asyncio.get_running_loop()
                    self._alarm = loop.call_at(at, self._begin, group)
                return
            self._free -= 1
            group.create_task(self._handle(unit, group))

    async def _handle(self, unit: WorkUnit, group: asyncio.TaskGroup) -> None:
        try:
            verdicts = await self._verdicts(unit)
            if verdicts is None:
                self._leaving.set()
            else:
                await self._settle(unit, verdicts)
        except BrokerUnavailable:
            # As above; whoever takes in the next ones notices it too.
            pass
        except BaseException:
            # A handler may also have cancelled this task, of which nobody else would take notice.
            self._ending.set()
            self._leaving.set()
            raise
        self._free += 1
        self._begin(group)

    async def _verdicts(self, unit: WorkUnit) -> list[Verdict] | None:
        """
        Verdicts on the deliveries of *unit*, or None if the database was away for too long.

        While the circuit breaker is open a failure counts for no message.
        """
        verdicts: list[Verdict] | None = None
        try:
            verdicts = await self._executor.execute(unit)
        except DatabaseUnavailable as error:
            execute = partial(self._executor.execute, unit)
            verdicts = await self._database_retry.repeat(error, execute, self._ending)
        finally:
            failed = has_failed(verdicts or []) if unit.has_breaker else None
            self._delivery_queue.ended(unit, self._now(), failed=failed)
        if verdicts is None or not self._delivery_queue.is_breaker_open(unit.handler):
            return verdicts
        return [Wait(timedelta(0)) if is_failure(verdict) else verdict for verdict in verdicts]

    async def _settle(self, unit: WorkUnit, verdicts: list[Verdict]) -> None:
        waits = await self._settlement.settle(
            self._subscription, unit.deliveries, verdicts, self._ending
        )
        if waits is None:
            self._leaving.set()
            return
        if not self._widened and any(wait is not None for wait in waits):
            await self._raise_prefetch()
        for queued, wait in zip(unit.queued, waits, strict=True):
            if wait is None:
                self._delivery_queue.settled(queued)
            else:
                self._delivery_queue.put_back(queued, self._now() + wait.total_seconds())

    async def _refresh(self) -> None:
        while not self._ending.is_set():
            await pause(self._ending, LONGEST / 10)
            stale = self._delivery_queue.stale(self._now() - LONGEST.total_seconds())
            try:
                left = await self._settlement.exchange(self._subscription, stale)
            except BrokerUnavailable:
                return
            self._delivery_queue.put(left, self._now())

    async def _leave_when(self, event: asyncio.Event) -> None:
        await event.wait()
        try:
            # Otherwise the broker goes on delivering to us what we have no use for.
            await shielded(self._subscription.stop())
        except BrokerUnavailable:
            return

    async def _release(self) -> None:
        left = self._delivery_queue.clear()
        if self._delivery_queue.has_lanes:
            # What goes back by itself comes behind what is not here yet, or before what is in
            # flight. When the subscription ends, all of it goes back in its order.
            return
        try:
            for delivery in left:
                await self._subscription.release(delivery)
        except BrokerUnavailable:
            return

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
