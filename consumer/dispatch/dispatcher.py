"""
Handles the deliveries of one subscription.

    subscription ──▶ delivery queue ──batch─▶ executor ──verdicts──▶ settlement
                           ▲                                             │
                           └───────────── Wait: handle later ────────────┘

- Handlers run in tasks of their own, at most *concurrency* at a time.
- The first deliveries arrive one at a time, until one arrives that is no redelivery: a poison
  message that ends each process that takes it uses up its own delivery limit, and not that of its
  neighbours.
- A delivery that waits too long for its handler, because a circuit breaker is open, is replaced by
  a copy before the broker's consumer timeout closes the channel.
"""

import asyncio
from datetime import timedelta
from functools import partial

from consumer.database_retry import LONGEST, DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.settlement import Settlement
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.execution.executor import Executor
from consumer.verdict import Verdict, Wait, has_failed, is_failure
from outbox.errors import BrokerUnavailable, DatabaseUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded
from outbox.transports.base import Subscription

_TAKE_LIMIT = 1_000


class Dispatcher:
    """
    Handles the deliveries of *subscription*, until it ends.

    Args:
        delivery_queue: Empty at the start and at the end; it keeps the state of circuit breakers
            and rate limits between subscriptions.
        concurrency: The number of batches that are handled at a time.
        prefetch: How many deliveries the broker sends ahead, once one is no redelivery.
        is_prefetch_raised: Whether the subscription has this prefetch from the start.

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
        is_prefetch_raised: bool,
    ) -> None:
        self._subscription = subscription
        self._delivery_queue = delivery_queue
        self._executor = executor
        self._settlement = settlement
        self._database_retry = database_retry
        self._free_slots = concurrency
        self._prefetch = prefetch
        self._is_prefetch_raised = is_prefetch_raised
        # Some deliveries cannot be settled: the broker must send no more.
        self._unsubscribe = asyncio.Event()
        # No further batch is started, and retries against servers end.
        self._closing = asyncio.Event()
        # Calls `_start_batches` when time alone makes a handler ready.
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """
        Return once *stop* is set and everything in flight is done, or the subscription is lost.

        Also returns once the database has been unavailable for `database_retry.LONGEST`.
        """
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._unsubscribe_when(stop)),
                group.create_task(self._unsubscribe_when(self._unsubscribe)),
                group.create_task(self._renew_stale()),
            ]
            try:
                await self._receive(group)
            finally:
                self._closing.set()
                self._cancel_timer()
                for task in background:
                    task.cancel()
            await self._release()
        # Units in flight may have put deliveries back meanwhile.
        await self._release()

    async def _receive(self, group: asyncio.TaskGroup) -> None:
        try:
            while deliveries := await self._subscription.take(_TAKE_LIMIT):
                self._delivery_queue.put(deliveries, self._now())
                self._start_batches(group)
                if not self._is_prefetch_raised and not all(
                    each.redelivered for each in deliveries
                ):
                    await self._raise_prefetch()
        except BrokerUnavailable:
            # The broker redelivers all that was not acked; committed messages are duplicates then.
            return

    async def _raise_prefetch(self) -> None:
        self._is_prefetch_raised = True
        if self._prefetch > 1:
            await self._subscription.raise_prefetch(self._prefetch)

    def _start_batches(self, group: asyncio.TaskGroup) -> None:
        """Start batches up to the concurrency, and again when time allows more."""
        self._cancel_timer()
        while self._free_slots and not self._closing.is_set():
            batch = self._delivery_queue.take(self._now())
            if batch is None:
                at = self._delivery_queue.take_at()
                if at is not None:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_at(at, self._start_batches, group)
                return
            self._free_slots -= 1
            group.create_task(self._handle(batch, group))

    async def _handle(self, batch: DeliveryBatch, group: asyncio.TaskGroup) -> None:
        try:
            verdicts = await self._verdicts(batch)
            if verdicts is None:
                self._unsubscribe.set()
            else:
                await self._settle(batch, verdicts)
        except BrokerUnavailable:
            # `_receive` gets the same error and ends.
            pass
        except BaseException:
            # A handler may have cancelled this task, and a task group ignores cancelled tasks.
            self._closing.set()
            self._unsubscribe.set()
            raise
        self._free_slots += 1
        self._start_batches(group)

    async def _verdicts(self, batch: DeliveryBatch) -> list[Verdict] | None:
        """
        Verdicts on the deliveries of *batch*, or None after a long outage of the database.

        While the circuit breaker is open a failure is not counted: the message waits.
        """
        verdicts: list[Verdict] | None = None
        began = self._now()
        try:
            verdicts = await self._executor.execute(batch)
            if self._database_retry.is_unavailable:
                self._database_retry.succeeded()
        except DatabaseUnavailable as error:
            execute = partial(self._executor.execute, batch)
            verdicts = await self._database_retry.repeat(
                error, execute, self._closing, began=began
            )
        finally:
            failed = has_failed(verdicts or []) if batch.has_breaker else None
            self._delivery_queue.ended(batch, self._now(), failed=failed)
        if verdicts is None or not self._delivery_queue.is_breaker_open(batch.handler):
            return verdicts
        return [Wait(timedelta(0)) if is_failure(verdict) else verdict for verdict in verdicts]

    async def _settle(self, batch: DeliveryBatch, verdicts: list[Verdict]) -> None:
        waits = await self._settlement.settle(
            self._subscription, batch.deliveries, verdicts, self._closing
        )
        if waits is None:
            self._unsubscribe.set()
            return
        if not self._is_prefetch_raised and any(wait is not None for wait in waits):
            await self._raise_prefetch()
        for queued, wait in zip(batch.queued, waits, strict=True):
            if wait is None:
                self._delivery_queue.settled(queued)
            else:
                self._delivery_queue.put_back(queued, self._now() + wait.total_seconds())

    async def _renew_stale(self) -> None:
        while not self._closing.is_set():
            await pause(self._closing, LONGEST / 10)
            stale = self._delivery_queue.take_stale(self._now() - LONGEST.total_seconds())
            try:
                left = await self._settlement.retries.renew(self._subscription, stale)
            except BrokerUnavailable:
                return
            self._delivery_queue.put(left, self._now())

    async def _unsubscribe_when(self, event: asyncio.Event) -> None:
        await event.wait()
        try:
            # Otherwise the broker would go on sending deliveries that are not handled here.
            await shielded(self._subscription.stop())
        except BrokerUnavailable:
            return

    async def _release(self) -> None:
        left = self._delivery_queue.clear()
        if self._delivery_queue.has_lanes:
            # A delivery that is requeued alone may change places with those that are still in the
            # queue or in flight. When the subscription ends, all are requeued in their order.
            return
        try:
            for delivery in left:
                await self._subscription.release(delivery)
        except BrokerUnavailable:
            return

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
