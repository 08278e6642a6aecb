"""
Which deliveries of a channel are settled, and how to say so in few words.

The broker numbers the deliveries of a channel: 1, 2, 3, without a gap. An ack of several settles
all up to a number, so it may be said only if each of them is to be acked, or was settled before.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Acks:
    """
    What to tell the broker.

    Args:
        up_to: Ack everything up to this tag, or None.
        single: Tags to ack one by one; all are above *up_to*.

    """

    up_to: int | None
    single: list[int]


class AckTracker:
    """The tags of one channel that are settled, told to the broker or not yet."""

    def __init__(self) -> None:
        # All up to this one are told; above it some are told, and some wait for that.
        self._low = 0
        self._told: set[int] = set()
        self._waiting: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many acks the broker has not been told."""
        return len(self._waiting)

    def ack(self, tags: Iterable[int]) -> None:
        """Have *tags* acked by the next `collect`. Those that are settled already stay so."""
        self._waiting.update(self.unsettled(tags))

    def tell(self, tags: Iterable[int]) -> None:
        """The broker has been told about *tags* in another way: they were put back."""
        self._told.update(self.unsettled(tags))

    def unsettled(self, tags: Iterable[int]) -> list[int]:
        """Those of *tags* that are not settled, in their order."""
        low, told, waiting = self._low, self._told, self._waiting
        return [tag for tag in tags if tag > low and tag not in told and tag not in waiting]

    def collect(self) -> Acks:
        """What the broker has to be told; it counts as told from now on."""
        waiting, told, low, up_to = self._waiting, self._told, self._low, None
        while True:
            following = low + 1
            if following in waiting:
                waiting.remove(following)
                up_to = following
            elif following in told:
                told.remove(following)
            else:
                break
            low = following
        single = sorted(waiting)
        told |= waiting
        waiting.clear()
        self._low = low
        return Acks(up_to, single)
