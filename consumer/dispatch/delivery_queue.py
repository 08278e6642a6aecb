"""
The deliveries that wait in this process, and the choice of the next ones: pure, with the time as
an argument.

    put ──▶ queue of a handler ──take──▶ batch ──▶ settled, or put back for later
              ▲ lanes: an ordered consumer queues only the first delivery of each lane

The rules, in the order in which they apply:

1. A handler whose circuit breaker is open, or whose rate limit is used up, gets no delivery.
2. Among the other handlers, the delivery with the highest priority is next; among equals, the one
   that arrived first.
3. A handler that takes batches gets all queued deliveries, up to its batch size. While it works on
   a batch, it gets a second one only if that is full: batches grow with the load, and without load
   no delivery waits for a batch to fill.
4. With a size of `BatchSizes`, a few deliveries in flight keep no other one waiting, and many not
   for longer than a batch may call handlers. A redelivery is alone: it may end the process.
5. A handler whose breaker allows one attempt gets one delivery.
6. A suspect is held back, and then taken when no other batch is in flight; see `suspects`.

When a subscription is lost, the handlers in flight go on, and the broker delivers their messages
again. Such a redelivery waits here until the handler of the same message, or lane, has ended.
"""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from types import MappingProxyType

from consumer.batch_sizes import LEAST_MESSAGES, LONGEST_CALLS, BatchSize, BatchSizes
from consumer.dispatch.lane_queues import LaneOf
from consumer.dispatch.pace import Pace
from consumer.dispatch.waiting_deliveries import WaitingDeliveries
from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.handler import Handler
from outbox.transports.delivery import Delivery

_NORMAL_PRIORITY = 4


class HandlerQueue:
    """
    The deliveries that wait for one *handler*, and whether it may be called.

    *size* is that of its batches, if its registration leaves it open.
    """

    def __init__(self, handler: Handler | None, size: BatchSize | None = None) -> None:
        self.handler = handler
        self.queued: list[QueuedDelivery] = []
        self._size = size
        self._fixed_size = (handler.batch_size if handler else None) or 1
        self._in_flight = 0
        self._began = 0.0
        has_pace = handler and (handler.circuit_breaker or handler.rate_limit)
        self.pace = Pace(handler) if handler and has_pace else None

    def is_ready(self, now: float) -> bool:
        """Whether `take` would return a batch."""
        if not self.queued:
            return False
        fewest = self._fewest(now)
        return len(self.queued) >= fewest and (self.pace is None or self.pace.allows(fewest, now))

    def ready_at(self, now: float) -> float | None:
        """The time from which it is ready; None if no time has to pass, or time is not enough."""
        fewest = self._fewest(now)
        if len(self.queued) >= fewest:
            return self.pace.allows_at(fewest) if self.pace else None
        return self._began + LONGEST_CALLS.total_seconds() if self.queued and self._size else None

    @property
    def _next_is_alone(self) -> bool:
        return self._size is not None and bool(self.queued) and self.queued[0].delivery.redelivered

    def _most(self, now: float) -> int:
        if self._size is None:
            return self._fixed_size
        return 1 if self._next_is_alone else self._size.at(now)

    def _fewest(self, now: float) -> int:
        """The fewest messages of a batch: one, or a full batch beside others."""
        if self._size is None:
            return self._fixed_size if self._in_flight else 1
        is_late = now >= self._began + LONGEST_CALLS.total_seconds()
        return 1 if is_late or self._in_flight < LEAST_MESSAGES else self._most(now)

    def take(self, now: float) -> DeliveryBatch:
        """The next batch; `is_ready` must be true."""
        count = min(self._most(now), len(self.queued))
        if self.pace is not None:
            count = self.pace.most(count, now)
        taken = [heappop(self.queued)]
        while len(taken) < count and not self._next_is_alone:
            taken.append(heappop(self.queued))
        return self.batch(taken, now)

    def batch(self, queued: list[QueuedDelivery], now: float) -> DeliveryBatch:
        """A batch of *queued*; for one that did not wait here, its pace must allow one."""
        if self.pace is not None:
            self.pace.called(len(queued), now)
        self._in_flight += len(queued)
        self._began = now
        has_breaker = self.pace is not None and self.pace.breaker is not None
        deliveries = [each.delivery for each in queued]
        return DeliveryBatch(self.handler, queued, deliveries, has_breaker=has_breaker)

    def ended(self, batch: DeliveryBatch, now: float, *, failed: bool | None) -> None:
        """Record that *batch* of this handler has ended; see `DeliveryQueue.ended`."""
        self._in_flight -= len(batch.queued)
        if self.pace is not None:
            self.pace.ended(now, failed=failed)


class DeliveryQueue(WaitingDeliveries):
    """
    All deliveries that wait in this process, and the choice of the next ones.

    Args:
        handlers: By event type.
        lane_of: For an ordered consumer, the lane of a delivery. One delivery of each lane is
            handled at a time, and priorities are ignored.
        limit: The number of strikes at which a message is given up.
        sizes: Of batches for which no registration gives one; without it each is 1.

    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        lane_of: LaneOf | None = None,
        limit: int = 20,
        sizes: BatchSizes | None = None,
    ) -> None:
        self._handler_queues = {
            name: HandlerQueue(handler, sizes.of(handler) if sizes else None)
            for name, handler in handlers.items()
        }
        self._unhandled = HandlerQueue(None)
        self._all = (*self._handler_queues.values(), self._unhandled)
        self._last_number = 0
        super().__init__(self._all, lane_of=lane_of, limit=limit)

    def put(
        self,
        deliveries: Iterable[Delivery],
        now: float,
        *,
        strikes: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Queue *deliveries* behind others of their lanes; *strikes* are those of their tags."""
        for delivery in deliveries:
            self._last_number += 1
            rank, struck = self._rank(delivery), strikes.get(delivery.tag, 0)
            queued = QueuedDelivery(rank, self._last_number, now, delivery, struck)
            has_lanes = self._is_ordered or self._lanes.waiting
            if not has_lanes or self._lanes.admits(queued):
                self._enqueue(queued)

    def take(self, now: float) -> DeliveryBatch | None:
        """The next batch to handle, or None if no handler is ready."""
        while self._delayed and self._delayed[0][0] <= now:
            self._enqueue(heappop(self._delayed)[-1])
        if self._suspects.is_running:
            return None
        best = self._best(now)
        batch: DeliveryBatch | None = None
        if self._suspects.held and (suspect := self._due_suspect(now, best)):
            # It waits until no other handler is in flight, and no other begins meanwhile.
            if not self._in_flight:
                batch = self._queue_of(suspect.delivery).batch([suspect], now)
                self._suspects.began(suspect, now)
        elif best is not None:
            batch = best.take(now)
        if batch is not None:
            self._in_flight.update((queued.number, queued) for queued in batch.queued)
        return batch

    def _best(self, now: float) -> HandlerQueue | None:
        best: HandlerQueue | None = None
        for handler_queue in self._all:
            if handler_queue.is_ready(now) and (
                best is None or handler_queue.queued[0] < best.queued[0]
            ):
                best = handler_queue
        return best

    def _due_suspect(self, now: float, best: HandlerQueue | None) -> QueuedDelivery | None:
        others_wait = best is not None or bool(self._in_flight)
        for suspect in self._suspects.due(now, others_wait=others_wait):
            pace = self._queue_of(suspect.delivery).pace
            if pace is None or pace.allows(1, now):
                return suspect
        return None

    def take_at(self, now: float) -> float | None:
        """When `take` may return a batch without any event before, or None."""
        times = [handler_queue.ready_at(now) for handler_queue in self._handler_queues.values()]
        times += [self._delayed[0][0]] if self._delayed else []
        if self._suspects.held and not self._suspects.is_running:
            others_wait = bool(self._in_flight)
            next_at = self._suspects.next_at(others_wait=others_wait)
            paces = (self._queue_of(each.delivery).pace for _, each in self._suspects.held)
            at = max(next_at or 0.0, min((pace and pace.allows_at(1)) or 0.0 for pace in paces))
            # One that is due already waits for the end of a handler.
            times.append(at if at > now else None)
        return min((time for time in times if time is not None), default=None)

    def settled(self, queued: QueuedDelivery) -> None:
        """Record that a delivery is settled: the next one of its lane is queued."""
        self._in_flight.pop(queued.number, None)
        if self._lanes.waiting and (following := self._lanes.following(queued)):
            self._enqueue(following)

    def left(self, batch: DeliveryBatch, *, opens_lanes: bool) -> None:
        """
        Record that *batch* is no longer in flight, whether its deliveries were settled or not.

        The lane of an unsettled one stays closed until `clear`, unless its subscription was lost.
        """
        for queued in batch.queued:
            if self._in_flight.pop(queued.number, None) is not None and opens_lanes:
                self.settled(queued)

    def ended(self, batch: DeliveryBatch, now: float, *, failed: bool | None) -> None:
        """
        Record that *batch* has ended, for the circuit breaker of its handler.

        *failed* says whether the handler failed; None if it was not called.
        """
        if self._suspects.is_running:
            self._suspects.ended(now)
        self._handler_queue(batch.handler).ended(batch, now, failed=failed)

    def is_breaker_open(self, handler: Handler | None) -> bool:
        """Whether the handler's circuit breaker is open: then failures are not counted."""
        pace = self._handler_queue(handler).pace
        breaker = pace.breaker if pace else None
        return breaker is not None and not breaker.is_closed

    def _handler_queue(self, handler: Handler | None) -> HandlerQueue:
        return self._unhandled if handler is None else self._handler_queues[handler.event_type]

    def _queue_of(self, delivery: Delivery) -> HandlerQueue:
        return self._handler_queues.get(delivery.message.type or "", self._unhandled)

    def _enqueue(self, queued: QueuedDelivery) -> None:
        if queued.strikes and self._suspects.includes(queued):
            self._suspects.hold(queued)
            return
        # One to be given up: its handler, and the pace of its handler, do not matter.
        is_last = queued.strikes >= self._suspects.limit
        handler_queue = self._unhandled if is_last else self._queue_of(queued.delivery)
        heappush(handler_queue.queued, queued)

    def _rank(self, delivery: Delivery) -> int:
        if self._is_ordered:
            return 0
        priorities = (delivery.headers.priority, delivery.message.priority, _NORMAL_PRIORITY)
        return -next(each for each in priorities if each is not None)
