"""
Handles the deliveries of one subscription after another.

    subscription ──▶ delivery queue ──batch─▶ executor ──verdicts──▶ settlement
                           ▲                                             │
                           └───────────── Wait: handle later ────────────┘

- Handlers run in tasks of their own, at most *concurrency* at a time.
- A batch that has redeliveries is counted, see `strikes`: a message that ends its process again
  and again is held back, then handled alone, and given up in the end.
- When a subscription is lost, its handlers go on beside the next subscription. The broker delivers
  their messages again: each redelivery waits for its handler here, and is settled by its verdict.
- A delivery that waits too long for its handler, because a circuit breaker is open, is replaced by
  a copy before the broker's consumer timeout closes the channel.
"""

import asyncio
from collections.abc import Sequence

from consumer.database_retry import LONGEST, WAITED_FOR, DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.session import Session
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.strikes import Strikes
from consumer.execution.delivery_batch import BatchExecutor, DeliveryBatch, QueuedDelivery
from consumer.verdict import WAIT, Verdict, has_failed, is_failure
from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.transports.base import Subscription

_TAKE_LIMIT = 1_000


class Dispatcher:
    """
    Handles deliveries of *delivery_queue*, up to *concurrency* batches at a time.

    Args:
        prefetch: How many deliveries the broker sends ahead.
        starts_slowly: Whether a subscription starts with a prefetch of 1, until one of its
            deliveries is no redelivery. It is for a broker that counts deliveries itself: so a
            message that ends each connection uses up no delivery of its neighbours.

    """

    def __init__(
        self,
        *,
        delivery_queue: DeliveryQueue,
        executor: BatchExecutor,
        strikes: Strikes,
        settlement: Settlement,
        database_retry: DatabaseRetry,
        concurrency: int,
        prefetch: int,
        starts_slowly: bool,
    ) -> None:
        self._delivery_queue = delivery_queue
        self._executor = executor
        self._strikes = strikes
        self._settlement = settlement
        self._database_retry = database_retry
        self._free_slots = concurrency
        self._prefetch = prefetch
        self._starts_slowly = starts_slowly
        self._session: Session | None = None
        self._group: asyncio.TaskGroup | None = None
        # Calls `_start_batches` when time alone makes a handler ready.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def was_idle(self) -> bool:
        """Whether the last subscription ended because it got no delivery for a while."""
        return self._session is not None and self._session.was_idle

    @property
    def first_prefetch(self) -> int:
        """The prefetch with which to subscribe."""
        return 1 if self._starts_slowly else self._prefetch

    async def run(
        self, subscription: Subscription, stop: asyncio.Event, group: asyncio.TaskGroup
    ) -> BrokerUnavailable | None:
        """
        Handle the deliveries of *subscription*, in tasks of *group*.

        Returns the error once the subscription is lost; handlers in flight go on. Returns None
        once all is done after *stop* is set, the database was unavailable for `LONGEST`, or the
        subscription `was_idle`.
        """
        session = self._session = Session(subscription, is_prefetch_raised=not self._starts_slowly)
        self._group = group
        background = [
            group.create_task(session.unsubscribe_when(stop)),
            group.create_task(session.unsubscribe_when(session.unsubscribe)),
            group.create_task(self._renew_stale(session)),
            group.create_task(session.end_when_idle(lambda: self._delivery_queue.is_empty)),
        ]
        try:
            await self._receive(session, stop)
        finally:
            session.closing.set()
            self._cancel_timer()
            for task in background:
                task.cancel()
        if session.lost is None:
            await self._release(session)
            await session.batches_end()
        # Batches in flight may have put deliveries back meanwhile.
        await self._release(session)
        return session.lost

    async def _receive(self, session: Session, stop: asyncio.Event) -> None:
        try:
            while deliveries := await session.subscription.take(_TAKE_LIMIT):
                session.deliveries += len(deliveries)
                fresh = [each for each in deliveries if not each.redelivered]
                if len(fresh) == len(deliveries):
                    self._delivery_queue.put(deliveries, self._now())
                else:
                    strikes = await self._strikes.of(deliveries, stop)
                    self._delivery_queue.put(deliveries, self._now(), strikes=strikes)
                self._start_batches()
                if not session.is_prefetch_raised and fresh:
                    await session.raise_prefetch(self._prefetch)
        except BrokerUnavailable as error:
            # The broker redelivers all that was not acked; committed messages are duplicates then.
            session.lost = error

    def _start_batches(self) -> None:
        """Start batches up to the concurrency, and again when time allows more."""
        self._cancel_timer()
        session, group = self._session, self._group
        if session is None or group is None:
            return
        while self._free_slots and not session.closing.is_set():
            now = self._now()
            batch = self._delivery_queue.take(now)
            if batch is None:
                at = self._delivery_queue.take_at(now)
                if at is not None:
                    self._timer = asyncio.get_running_loop().call_at(at, self._start_batches)
                return
            self._free_slots -= 1
            task = group.create_task(self._handle(batch, session))
            session.batches.add(task)
            task.add_done_callback(session.batches.discard)

    async def _handle(self, batch: DeliveryBatch, session: Session) -> None:
        try:
            verdicts = await self._verdicts(batch, session)
            if session.lost is not None:
                await self._hand_over(batch, verdicts)
            elif verdicts is None:
                session.unsubscribe.set()
            else:
                await self._settle(session, batch.queued, verdicts)
        except BrokerUnavailable:
            # `_receive` gets the same error and ends.
            pass
        except BaseException:
            # A handler may have cancelled this task, and a task group ignores cancelled tasks.
            session.closing.set()
            session.unsubscribe.set()
            raise
        finally:
            self._free_slots += 1
            self._delivery_queue.left(batch, opens_lanes=session.lost is not None)
        self._start_batches()

    async def _verdicts(self, batch: DeliveryBatch, session: Session) -> list[Verdict] | None:
        """
        Verdicts on the deliveries of *batch*, or None after a long outage of database or keys.

        While the circuit breaker is open a failure is not counted: the message waits.
        """
        verdicts: list[Verdict] | None = None
        began = self._now()
        try:
            verdicts = await self._execute(batch)
            if self._database_retry.is_unavailable:
                self._database_retry.succeeded()
        except WAITED_FOR as error:
            verdicts = await self._database_retry.repeat(
                error, lambda: self._execute(batch), session.closing, began=began
            )
        finally:
            failed = has_failed(verdicts or []) if batch.has_breaker else None
            self._delivery_queue.ended(batch, self._now(), failed=failed)
        if verdicts is None or not self._delivery_queue.is_breaker_open(batch.handler):
            return verdicts
        return [WAIT if is_failure(verdict) else verdict for verdict in verdicts]

    async def _execute(self, batch: DeliveryBatch) -> list[Verdict]:
        if any(delivery.redelivered for delivery in batch.deliveries):
            return await self._strikes.execute(batch, limit=self._delivery_queue.limit)
        return await self._executor.execute(batch)

    async def _settle(
        self, session: Session, batch: Sequence[QueuedDelivery], verdicts: list[Verdict]
    ) -> None:
        for step in self._settlement.steps(batch, verdicts):
            waits = await self._settlement.settle(session.subscription, step, session.closing)
            if session.lost is not None:
                return
            if waits is None:
                session.unsubscribe.set()
                continue
            if not session.is_prefetch_raised and any(wait is not None for wait in waits):
                await session.raise_prefetch(self._prefetch)
            for (queued, _), wait in zip(step.settled, waits, strict=True):
                if wait is None:
                    self._delivery_queue.settled(queued)
                else:
                    self._delivery_queue.put_back(queued, self._now() + wait.total_seconds())
            if len(step.settled) < len(batch):
                self._start_batches()

    async def _hand_over(self, batch: DeliveryBatch, verdicts: list[Verdict] | None) -> None:
        """Settle the redeliveries of *batch*, which has lost its subscription, in its place."""
        session = self._session
        if verdicts is None or session is None or session.closing.is_set():
            return
        for queued, verdict in zip(batch.queued, verdicts, strict=True):
            redelivery = self._delivery_queue.take_redelivery(queued)
            if redelivery is not None:
                await self._settle(session, [redelivery], [verdict])

    async def _renew_stale(self, session: Session) -> None:
        while not session.closing.is_set():
            await pause(session.closing, LONGEST / 10)
            stale = self._delivery_queue.take_stale(self._now() - LONGEST.total_seconds())
            try:
                left = await self._settlement.retries.renew(session.subscription, stale)
            except BrokerUnavailable:
                return
            self._delivery_queue.put(left, self._now())

    async def _release(self, session: Session) -> None:
        left = self._delivery_queue.clear()
        if self._delivery_queue.has_lanes or session.lost is not None:
            # A delivery that is requeued alone may change places with those that are still in the
            # queue or in flight. When the subscription ends, all are requeued in their order.
            return
        try:
            for delivery in left:
                await session.subscription.release(delivery)
        except BrokerUnavailable:
            return

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
