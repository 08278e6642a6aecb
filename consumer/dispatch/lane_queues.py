"""
Deliveries that wait behind another one of their lane: pure.

In an ordered consumer a lane is that of the wire format. A subscription that is lost makes a lane
of each message in flight, ordered or not: its redelivery waits until its handler has ended.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from consumer.execution.delivery_batch import QueuedDelivery
from outbox.transports.delivery import Delivery

LaneOf: TypeAlias = Callable[[Delivery], str | None]


class LaneQueues:
    """
    The lanes of which a delivery is queued for its handler, or in flight.

    *lane_of* returns the lane of a delivery, for an ordered consumer. `waiting` has no lanes for
    another consumer, except after a lost subscription.
    """

    def __init__(self, lane_of: LaneOf | None) -> None:
        self.lane_of = lane_of
        self.waiting: dict[str, deque[QueuedDelivery]] = {}

    def admits(self, queued: QueuedDelivery) -> bool:
        """Whether *queued* is the first of its lane; otherwise it waits here from now on."""
        lane = self.lane_of(queued.delivery) if self.lane_of else None
        if lane is None:
            lane = _lane_of_message(queued)
            if lane not in self.waiting:
                return True
        followers = self.waiting.get(lane)
        if followers is None:
            self.waiting[lane] = deque()
            return True
        followers.append(queued)
        return False

    def following(self, queued: QueuedDelivery) -> QueuedDelivery | None:
        """Remove and return the next of the lane of *queued*, which is settled."""
        lane = self._lane(queued)
        if followers := self.waiting.get(lane):
            return followers.popleft()
        self.waiting.pop(lane, None)
        return None

    def take_redelivery(self, queued: QueuedDelivery) -> QueuedDelivery | None:
        """Remove and return the redelivery of *queued*, if it is the next of its lane."""
        followers = self.waiting.get(self._lane(queued))
        message_id = queued.delivery.message.message_id
        if not followers or message_id is None:
            return None
        is_same = followers[0].delivery.message.message_id == message_id
        return followers.popleft() if is_same else None

    def take(self, since: float) -> list[QueuedDelivery]:
        """Remove and return those that arrived before *since*."""
        found = []
        for lane, followers in self.waiting.items():
            found += [each for each in followers if each.since < since]
            self.waiting[lane] = deque(each for each in followers if each.since >= since)
        return found

    def clear(self, in_flight: Iterable[QueuedDelivery]) -> list[QueuedDelivery]:
        """Remove and return all; only the lanes of those *in_flight* stay closed."""
        found = [each for followers in self.waiting.values() for each in followers]
        self.waiting = {self._lane(queued): deque() for queued in in_flight}
        return found

    def _lane(self, queued: QueuedDelivery) -> str:
        lane = self.lane_of(queued.delivery) if self.lane_of else None
        return lane if lane is not None else _lane_of_message(queued)


def _lane_of_message(queued: QueuedDelivery) -> str:
    """The lane of a message without one; no lane of the wire format looks like it."""
    return f"message {queued.delivery.message.message_id or queued.number}"
