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
4. A handler whose breaker allows one attempt gets one delivery.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import TypeAlias

from consumer.dispatch.circuit_breaker import Breaker
from consumer.dispatch.rate_limiter import RateLimiter
from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.handler import Handler
from outbox.transports.delivery import Delivery

LaneOf: TypeAlias = Callable[[Delivery], str | None]

_NORMAL_PRIORITY = 4


class HandlerQueue:
    """The deliveries that wait for one *handler*, and whether it may be called."""

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler
        self.queued: list[QueuedDelivery] = []
        self._size = handler.batch_size if handler else 1
        self._in_flight = 0
        self._rate = RateLimiter(handler.rate_limit) if handler and handler.rate_limit else None
        self.breaker = (
            Breaker(handler.circuit_breaker) if handler and handler.circuit_breaker else None
        )

    def is_ready(self, now: float) -> bool:
        """Whether `take` would return a batch."""
        return (
            len(self.queued) >= self._unit_size
            and (self.breaker is None or self.breaker.allows(now))
            and (self._rate is None or self._rate.allowed(now) >= self._unit_size)
        )

    def ready_at(self) -> float | None:
        """The time from which it is ready; None if no time has to pass, or time is not enough."""
        if len(self.queued) < self._unit_size or (self.breaker and self.breaker.is_probing):
            return None
        times = [self.breaker.allows_at if self.breaker else None]
        if self._rate is not None:
            allowed_at = self._rate.next_at(self._unit_size)
            if allowed_at is None:
                return None
            times.append(allowed_at)
        return max((time for time in times if time is not None), default=None)

    @property
    def _unit_size(self) -> int:
        """The fewest messages of a batch: one, or a full batch beside another batch."""
        return self._size if self._in_flight else 1

    def take(self, now: float) -> DeliveryBatch:
        """The next batch; `is_ready` must be true."""
        count = min(self._size, len(self.queued))
        if self._rate is not None:
            count = min(count, self._rate.allowed(now))
        if self.breaker is not None:
            count = count if self.breaker.is_closed else 1
            self.breaker.called()
        if self._rate is not None:
            self._rate.taken(count, now)
        # Only batches are counted: single messages need not wait for others.
        self._in_flight += self._size > 1
        queued = [heappop(self.queued) for _ in range(count)]
        deliveries = [each.delivery for each in queued]
        return DeliveryBatch(
            self.handler, queued, deliveries, has_breaker=self.breaker is not None
        )

    def ended(self, now: float, *, failed: bool | None) -> None:
        """Record that a batch of this handler has ended; see `DeliveryQueue.ended`."""
        self._in_flight -= self._size > 1
        if self.breaker is None:
            return
        if failed is None:
            self.breaker.skipped()
        elif failed:
            self.breaker.failed(now)
        else:
            self.breaker.succeeded()


class DeliveryQueue:
    """
    All deliveries that wait in this process.

    Args:
        handlers: By event type.
        lane_of: For an ordered consumer, the lane of a delivery. One delivery of each lane is
            handled at a time, and priorities are ignored.

    """

    def __init__(self, handlers: Mapping[str, Handler], *, lane_of: LaneOf | None = None) -> None:
        self._handler_queues = {name: HandlerQueue(handler) for name, handler in handlers.items()}
        self._unhandled = HandlerQueue(None)
        self._lane_of = lane_of
        self._lanes: dict[str, deque[QueuedDelivery]] = {}
        self._delayed: list[tuple[float, int, QueuedDelivery]] = []
        self._last_number = 0

    @property
    def has_lanes(self) -> bool:
        """Whether the consumer is ordered."""
        return self._lane_of is not None

    def put(self, deliveries: Iterable[Delivery], now: float) -> None:
        """Queue *deliveries* for their handlers, behind others of their lanes."""
        for delivery in deliveries:
            self._last_number += 1
            queued = QueuedDelivery(self._rank(delivery), self._last_number, now, delivery)
            lane = self._lane_of(delivery) if self._lane_of else None
            if lane is None:
                self._enqueue(queued)
            elif lane in self._lanes:
                self._lanes[lane].append(queued)
            else:
                self._lanes[lane] = deque()
                self._enqueue(queued)

    def take(self, now: float) -> DeliveryBatch | None:
        """The next batch to handle, or None if no handler is ready."""
        while self._delayed and self._delayed[0][0] <= now:
            self._enqueue(heappop(self._delayed)[-1])
        best: HandlerQueue | None = None
        for handler_queue in (*self._handler_queues.values(), self._unhandled):
            if handler_queue.is_ready(now) and (
                best is None or handler_queue.queued[0] < best.queued[0]
            ):
                best = handler_queue
        return best.take(now) if best is not None else None

    def take_at(self) -> float | None:
        """When `take` may return a batch without any event before, or None."""
        times = [handler_queue.ready_at() for handler_queue in self._handler_queues.values()]
        times += [self._delayed[0][0]] if self._delayed else []
        return min((time for time in times if time is not None), default=None)

    def put_back(self, queued: QueuedDelivery, at: float) -> None:
        """Queue a delivery again from the time *at* on; its lane waits for it."""
        heappush(self._delayed, (at, queued.number, queued))

    def settled(self, queued: QueuedDelivery) -> None:
        """Record that a delivery is settled: the next one of its lane is queued."""
        lane = self._lane_of(queued.delivery) if self._lane_of else None
        followers = self._lanes.get(lane) if lane is not None else None
        if followers:
            self._enqueue(followers.popleft())
        elif lane is not None:
            self._lanes.pop(lane, None)

    def ended(self, batch: DeliveryBatch, now: float, *, failed: bool | None) -> None:
        """
        Record that *batch* has ended, for the circuit breaker of its handler.

        *failed* says whether the handler failed; None if it was not called.
        """
        self._handler_queue(batch.handler).ended(now, failed=failed)

    def is_breaker_open(self, handler: Handler | None) -> bool:
        """Whether the handler's circuit breaker is open: then failures are not counted."""
        breaker = self._handler_queue(handler).breaker
        return breaker is not None and not breaker.is_closed

    def take_stale(self, since: float) -> list[Delivery]:
        """Remove and return the deliveries older than *since*; none if the consumer is ordered."""
        if self._lane_of is not None:
            return []
        found: list[Delivery] = []
        for handler_queue in self._handler_queues.values():
            found += [each.delivery for each in handler_queue.queued if each.since < since]
            handler_queue.queued = [each for each in handler_queue.queued if each.since >= since]
            handler_queue.queued.sort()
        found += [each.delivery for *_, each in self._delayed if each.since < since]
        self._delayed = [delayed for delayed in self._delayed if delayed[-1].since >= since]
        self._delayed.sort()
        return found

    def clear(self) -> list[Delivery]:
        """Remove and return all deliveries, in the order of their arrival."""
        handler_queues = (*self._handler_queues.values(), self._unhandled)
        found = [each for handler_queue in handler_queues for each in handler_queue.queued]
        found += [each for followers in self._lanes.values() for each in followers]
        found += [each for *_, each in self._delayed]
        for handler_queue in handler_queues:
            handler_queue.queued = []
        self._lanes.clear()
        self._delayed.clear()
        return [each.delivery for each in sorted(found, key=lambda each: each.number)]

    def _handler_queue(self, handler: Handler | None) -> HandlerQueue:
        return self._unhandled if handler is None else self._handler_queues[handler.event_type]

    def _enqueue(self, queued: QueuedDelivery) -> None:
        handler_queue = self._handler_queues.get(
            queued.delivery.message.type or "", self._unhandled
        )
        heappush(handler_queue.queued, queued)

    def _rank(self, delivery: Delivery) -> int:
        if self._lane_of is not None:
            return 0
        priority = delivery.message.priority
        return -(_NORMAL_PRIORITY if priority is None else priority)
