"""
How long to wait before the next look at the outbox: pure.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses between *shortest* and *longest*; an empty outbox is looked at ever more rarely."""

    shortest: timedelta
    longest: timedelta

    def after(self, claimed: int, *, limit: int, previous: timedelta) -> timedelta:
        """The pause after *claimed* of at most *limit* rows; the *previous* one was so long."""
        if claimed >= limit:
            return timedelta(0)
        if claimed:
            return self.shortest
        return min(max(previous * 2, self.shortest), self.longest)
