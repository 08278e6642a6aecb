"""
What a way does to what passes over it: losing, delaying, throttling and tearing it. No I/O.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

_STEPS_PER_SECOND = 20


class Side(Enum):
    """Who says something."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConditions:
    """
    The state of a way; by default everything passes at once.

    Args:
        silent: What these sides say is lost, also that they have gone.
        delay: How long each piece is under way.
        jitter: How much longer it may be, at random.
        bytes_per_second: How much passes, in each direction.
        piece_bytes: How much arrives at once at most.
    """

    silent: frozenset[Side] = frozenset()
    delay: timedelta = timedelta(0)
    jitter: timedelta = timedelta(0)
    bytes_per_second: int | None = None
    piece_bytes: int | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """*data* as it arrives."""
        size = self.piece_bytes or max(1, len(data))
        if self.bytes_per_second is not None:
            size = min(size, max(1, self.bytes_per_second // _STEPS_PER_SECOND))
        return (data[start : start + size] for start in range(0, len(data), size))

    def pause(self, piece: bytes, *, jitter: float) -> float:
        """How many seconds *piece* is under way; *jitter* is from 0 to 1."""
        seconds = (self.delay + self.jitter * jitter).total_seconds()
        if self.bytes_per_second is not None:
            seconds += len(piece) / self.bytes_per_second
        return seconds


UNIMPAIRED = NetworkConditions()
DROP_ALL = NetworkConditions(silent=frozenset(Side))
