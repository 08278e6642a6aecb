"""
A consumer of a test, one batch at a time.

Its batches are those that registrations ask for. The process also lets other messages share a
transaction under load, depending on how long they take; a test repeats itself exactly.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from consumer.bound import Bound
from consumer.consumer import Consumer
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.execution.ordering import Lanes
from consumer.tasks import Tasks
from consumer.verdict import WAIT, Verdict, has_failed, is_failure
from outbox.errors import DatabaseUnavailable
from outbox.transports.delivery import Delivery
from outbox_testing.clock import SkippingClock
from outbox_testing.pulled import PulledSubscription

_AT_ONCE = 100


@dataclass(slots=True)
class Handling:
    """
    Handles the deliveries of *subscription* as *consumer* declares, by the parts of *tasks*.

    *consumer* is the one that the test has *declared*, with a queue of its own; its functions are
    *bound* to their resources.
    """

    declared: Consumer
    consumer: Consumer
    bound: Bound
    tasks: Tasks
    subscription: PulledSubscription
    clock: SkippingClock
    _queue: DeliveryQueue = field(init=False)

    def __post_init__(self) -> None:
        lane_of = Lanes.lane_of if self.consumer.ordered else None
        self._queue = DeliveryQueue(self.bound.handlers, lane_of=lane_of)

    async def run(self) -> bool:
        """
        Handle all messages that are due; returns whether there were any.

        Raises DatabaseUnavailable and BrokerUnavailable.
        """
        await self.subscription.return_due()
        found = False
        while deliveries := await self.subscription.take(_AT_ONCE):
            found = True
            self._queue.put(deliveries, self.clock.now())
        while (batch := self._queue.take(self.clock.now())) is not None:
            found = True
            await self._handle(batch)
        parked = self.tasks.parked_worker
        while parked is not None and await parked.attempt_next():
            found = True
        await self._call_hooks()
        return found

    async def call(self, delivery: Delivery) -> Verdict:
        """The verdict on *delivery*, which no queue has, after one attempt."""
        handler = self.bound.handlers.get(delivery.message.type or "")
        queued = QueuedDelivery(0, 0, self.clock.now(), delivery)
        batch = DeliveryBatch(handler, [queued], [delivery])
        [verdict] = await self.tasks.executor.execute(batch)
        await self._call_hooks()
        return verdict

    async def _call_hooks(self) -> None:
        """Call the hooks that wait; in a process they are called beside the work."""
        async with self.tasks.hooks.running():
            pass

    async def _handle(self, batch: DeliveryBatch) -> None:
        verdicts: Sequence[Verdict] = await self.tasks.executor.execute(batch)
        failed = has_failed(verdicts) if batch.has_breaker else None
        self._queue.ended(batch, self.clock.now(), failed=failed)
        if self._queue.is_breaker_open(batch.handler):
            verdicts = [WAIT if is_failure(each) else each for each in verdicts]
        # It is set, so that nothing is repeated until a server answers.
        stop = asyncio.Event()
        stop.set()
        for step in self.tasks.settlement.steps(batch.queued, verdicts):
            waits = await self.tasks.settlement.settle(self.subscription, step, stop)
            if waits is None:
                raise DatabaseUnavailable("a message could not be settled")
            for (queued, _), wait in zip(step.settled, waits, strict=True):
                if wait is None:
                    self._queue.settled(queued)
                else:
                    self._queue.put_back(queued, self.clock.now() + wait.total_seconds())
        self._queue.left(batch, opens_lanes=False)
