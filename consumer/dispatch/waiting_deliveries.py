"""
All deliveries that wait in a process, and the ways out of it other than to a handler: pure.

They go back to the broker when the process stops, are replaced by copies when they have waited for
too long, or are dropped when their subscription is lost.
"""

from collections.abc import Sequence
from heapq import heappush
from typing import Protocol

from consumer.dispatch.lane_queues import LaneOf, LaneQueues
from consumer.dispatch.suspects import Suspects
from consumer.execution.delivery_batch import QueuedDelivery
from outbox.transports.delivery import Delivery


class HandlerDeliveries(Protocol):
    """The deliveries that wait for one handler, as a heap."""

    queued: list[QueuedDelivery]


class WaitingDeliveries:
    """
    Deliveries that wait in *queues*, behind others of their lanes, or for some time.

    *lane_of* returns the lane of a delivery, for an ordered consumer. *limit* is the number of
    strikes at which a message is given up.
    """

    def __init__(
        self, queues: Sequence[HandlerDeliveries], *, lane_of: LaneOf | None, limit: int
    ) -> None:
        self._queues = queues
        self._suspects = Suspects(limit)
        self._lanes = LaneQueues(lane_of)
        self._is_ordered = lane_of is not None
        self._delayed: list[tuple[float, int, QueuedDelivery]] = []
        self._in_flight: dict[int, QueuedDelivery] = {}

    @property
    def limit(self) -> int:
        """The number of strikes at which a message is given up."""
        return self._suspects.limit

    @property
    def has_lanes(self) -> bool:
        """Whether the consumer is ordered."""
        return self._is_ordered

    @property
    def is_empty(self) -> bool:
        """Whether no delivery waits or is in flight."""
        waits = any(handler_queue.queued for handler_queue in self._queues) or self._lanes.waiting
        return not (waits or self._in_flight or self._delayed or self._suspects.held)

    def put_back(self, queued: QueuedDelivery, at: float) -> None:
        """Queue a delivery again from the time *at* on; its lane waits for it."""
        self._in_flight.pop(queued.number, None)
        heappush(self._delayed, (at, queued.number, queued))

    def take_redelivery(self, queued: QueuedDelivery) -> QueuedDelivery | None:
        """
        Remove and return the redelivery of *queued*, whose subscription was lost.

        It has to be settled in the place of *queued*.
        """
        redelivery = self._lanes.take_redelivery(queued)
        if redelivery is not None:
            self._in_flight.pop(queued.number, None)
        return redelivery

    def take_stale(self, since: float) -> list[Delivery]:
        """Remove and return the deliveries older than *since*; none if the consumer is ordered."""
        if self._is_ordered:
            return []
        found = self._suspects.take(since) + self._lanes.take(since)
        for handler_queue in self._queues:
            found += [each for each in handler_queue.queued if each.since < since]
            handler_queue.queued = [each for each in handler_queue.queued if each.since >= since]
            handler_queue.queued.sort()
        found += [each for *_, each in self._delayed if each.since < since]
        self._delayed = [delayed for delayed in self._delayed if delayed[-1].since >= since]
        self._delayed.sort()
        return [each.delivery for each in found]

    def clear(self) -> list[Delivery]:
        """
        Remove and return all deliveries, in the order of their arrival.

        Those in flight stay: redeliveries of their messages, or lanes, wait until they have ended.
        """
        found = [each for handler_queue in self._queues for each in handler_queue.queued]
        found += self._lanes.clear(self._in_flight.values())
        found += [each for *_, each in self._delayed]
        found += [each for _, each in self._suspects.held]
        for handler_queue in self._queues:
            handler_queue.queued = []
        self._delayed.clear()
        self._suspects.held.clear()
        return [each.delivery for each in sorted(found, key=lambda each: each.number)]
