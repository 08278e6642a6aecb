"""
What waits in this process, and what is handled next: pure, with the time as an argument.

    put ──▶ line of a handler ──take──▶ unit ──▶ settled, or put back for later
              ▲ lanes: of an ordered consumer only the first of each key is in a line

Decisions, in their order:

- A handler whose circuit breaker is open, or whose rate is used up, gets nothing.
- Of the others, the message of the highest priority comes first, then the one that came first.
- A handler that takes batches gets all that wait, up to its size. While it works on a batch it
  gets no other one that is not full: batches grow with the load, and without load nothing waits.
- A handler that is tried after its breaker was open gets one message.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import TypeAlias

from consumer.dispatch.circuit_breaker import Breaker
from consumer.dispatch.rate_limiter import RateLimiter
from consumer.execution.work_unit import QueuedDelivery, WorkUnit
from consumer.handler import Handler
from outbox.transports.delivery import Delivery

LaneOf: TypeAlias = Callable[[Delivery], str | None]

_NORMAL_PRIORITY = 4


class HandlerQueue:
    """The deliveries that wait for one *handler*, and whether it may have some."""

    def __init__(self, handler: Handler | None) -> None:
        self.handler = handler
        self.waiting: list[QueuedDelivery] = []
        self._size = handler.batch_size if handler else 1
        self._in_flight = 0
        self._rate = RateLimiter(handler.rate_limit) if handler and handler.rate_limit else None
        self.breaker = (
            Breaker(handler.circuit_breaker) if handler and handler.circuit_breaker else None
        )

    def is_ready(self, now: float) -> bool:
        """Whether `take` would give a unit."""
        return (
            len(self.waiting) >= self._wanted
            and (self.breaker is None or self.breaker.allows(now))
            and (self._rate is None or self._rate.allowed(now) >= self._wanted)
        )

    def ready_at(self) -> float | None:
        """When time alone makes it ready; None if it is not the time that it lacks."""
        if len(self.waiting) < self._wanted or (self.breaker and self.breaker.is_probing):
            return None
        times = [self.breaker.allows_at if self.breaker else None]
        if self._rate is not None:
            room_at = self._rate.next_at(self._wanted)
            if room_at is None:
                return None
            times.append(room_at)
        return max((time for time in times if time is not None), default=None)

    @property
    def _wanted(self) -> int:
        """How many messages make a unit: one, or a full batch beside another batch."""
        return self._size if self._in_flight else 1

    def take(self, now: float) -> WorkUnit:
        """The next unit; the line must be ready."""
        count = min(self._size, len(self.waiting))
        if self._rate is not None:
            count = min(count, self._rate.allowed(now))
        if self.breaker is not None:
            count = count if self.breaker.is_closed else 1
            self.breaker.called()
        if self._rate is not None:
            self._rate.taken(count, now)
        # Single messages are handled side by side, batches only once they are full.
        self._in_flight += self._size > 1
        queued = [heappop(self.waiting) for _ in range(count)]
        deliveries = [each.delivery for each in queued]
        return WorkUnit(self.handler, queued, deliveries, has_breaker=self.breaker is not None)

    def ended(self, now: float, *, failed: bool | None) -> None:
        """A unit of this line is done with."""
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
    Everything that waits in this process.

    Args:
        handlers: By event type.
        lane_of: For an ordered consumer, which lane a delivery is in; of each lane one delivery
            at a time is handled, and lanes know no priorities.

    """

    def __init__(self, handlers: Mapping[str, Handler], *, lane_of: LaneOf | None = None) -> None:
        self._handler_queues = {name: HandlerQueue(handler) for name, handler in handlers.items()}
        self._unhandled = HandlerQueue(None)
        self._lane_of = lane_of
        self._lanes: dict[str, deque[QueuedDelivery]] = {}
        self._later: list[tuple[float, int, QueuedDelivery]] = []
        self._numbers = 0

    @property
    def has_lanes(self) -> bool:
        """Whether the order of deliveries matters."""
        return self._lane_of is not None

    def put(self, deliveries: Iterable[Delivery], now: float) -> None:
        """These have come."""
        for delivery in deliveries:
            self._numbers += 1
            waiting = QueuedDelivery(self._rank(delivery), self._numbers, now, delivery)
            lane = self._lane_of(delivery) if self._lane_of else None
            if lane is None:
                self._enqueue(waiting)
            elif lane in self._lanes:
                self._lanes[lane].append(waiting)
            else:
                self._lanes[lane] = deque()
                self._enqueue(waiting)

    def take(self, now: float) -> WorkUnit | None:
        """The next unit to handle, or None if nothing can be handled now."""
        while self._later and self._later[0][0] <= now:
            self._enqueue(heappop(self._later)[-1])
        best: HandlerQueue | None = None
        for handler_queue in (*self._handler_queues.values(), self._unhandled):
            if handler_queue.is_ready(now) and (
                best is None or handler_queue.waiting[0] < best.waiting[0]
            ):
                best = handler_queue
        return best.take(now) if best is not None else None

    def take_at(self) -> float | None:
        """When to call `take` again though nothing has come, or None."""
        times = [handler_queue.ready_at() for handler_queue in self._handler_queues.values()]
        times += [self._later[0][0]] if self._later else []
        return min((time for time in times if time is not None), default=None)

    def put_back(self, waiting: QueuedDelivery, at: float) -> None:
        """It is to be handled again, not before the time *at*; its lane waits."""
        heappush(self._later, (at, waiting.number, waiting))

    def settled(self, waiting: QueuedDelivery) -> None:
        """It is done with; the next of its lane may come."""
        lane = self._lane_of(waiting.delivery) if self._lane_of else None
        followers = self._lanes.get(lane) if lane is not None else None
        if followers:
            self._enqueue(followers.popleft())
        elif lane is not None:
            self._lanes.pop(lane, None)

    def ended(self, unit: WorkUnit, now: float, *, failed: bool | None) -> None:
        """
        The handler has done with *unit*; *failed* if that was its fault or its servers'.

        None if it was not called.
        """
        self._handler_queue(unit.handler).ended(now, failed=failed)

    def is_breaker_open(self, handler: Handler | None) -> bool:
        """Whether the handler's circuit breaker is open: its failures count for no message."""
        breaker = self._handler_queue(handler).breaker
        return breaker is not None and not breaker.is_closed

    def stale(self, since: float) -> list[Delivery]:
        """Remove and return what has waited from before *since* and stands in no lane."""
        if self._lane_of is not None:
            return []
        found: list[Delivery] = []
        for handler_queue in self._handler_queues.values():
            found += [each.delivery for each in handler_queue.waiting if each.since < since]
            handler_queue.waiting = [each for each in handler_queue.waiting if each.since >= since]
            handler_queue.waiting.sort()
        found += [each.delivery for *_, each in self._later if each.since < since]
        self._later = [later for later in self._later if later[-1].since >= since]
        self._later.sort()
        return found

    def clear(self) -> list[Delivery]:
        """Remove and return everything that waits, in the order in which it came."""
        handler_queues = (*self._handler_queues.values(), self._unhandled)
        found = [each for handler_queue in handler_queues for each in handler_queue.waiting]
        found += [each for followers in self._lanes.values() for each in followers]
        found += [each for *_, each in self._later]
        for handler_queue in handler_queues:
            handler_queue.waiting = []
        self._lanes.clear()
        self._later.clear()
        return [each.delivery for each in sorted(found, key=lambda each: each.number)]

    def _handler_queue(self, handler: Handler | None) -> HandlerQueue:
        return self._unhandled if handler is None else self._handler_queues[handler.event_type]

    def _enqueue(self, waiting: QueuedDelivery) -> None:
        handler_queue = self._handler_queues.get(
            waiting.delivery.message.type or "", self._unhandled
        )
        heappush(handler_queue.waiting, waiting)

    def _rank(self, delivery: Delivery) -> int:
        if self._lane_of is not None:
            return 0
        priority = delivery.message.priority
        return -(_NORMAL_PRIORITY if priority is None else priority)
