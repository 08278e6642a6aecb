"""
The conditions of a connection: loss, latency, jitter, bandwidth, fragmentation. No I/O.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

_STEPS_PER_SECOND = 20


class Side(Enum):
    """A side of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConditions:
    """
    The conditions of a connection; by default all data passes at once.

    Args:
        silent: Data of these sides is dropped, and so is the end of their connection.
        delay: The latency of each piece.
        jitter: The most that is added to the latency, at random.
        bytes_per_second: The bandwidth in each direction.
        piece_bytes: The largest piece that arrives at once.
    """

    silent: frozenset[Side] = frozenset()
    delay: timedelta = timedelta(0)
    jitter: timedelta = timedelta(0)
    bytes_per_second: int | None = None
    piece_bytes: int | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """*data* in the pieces in which it arrives."""
        size = self.piece_bytes or max(1, len(data))
        if self.bytes_per_second is not None:
            size = min(size, max(1, self.bytes_per_second // _STEPS_PER_SECOND))
        return (data[start : start + size] for start in range(0, len(data), size))

    def pause(self, piece: bytes, *, jitter: float) -> float:
        """The seconds until *piece* arrives; *jitter* is from 0 to 1."""
        seconds = (self.delay + self.jitter * jitter).total_seconds()
        if self.bytes_per_second is not None:
            seconds += len(piece) / self.bytes_per_second
        return seconds


UNIMPAIRED = NetworkConditions()
DROP_ALL = NetworkConditions(silent=frozenset(Side))
