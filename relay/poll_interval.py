"""
How long to wait before the next look at the outbox, and when there is much to do: pure.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """
    What a claim has found.

    Args:
        rows: How many.
        more: Whether there may be more right now.

    """

    rows: int
    more: bool


@dataclass(frozen=True, slots=True)
class PollInterval:
    """Pauses between *shortest* and *longest*; an empty outbox is looked at ever more rarely."""

    shortest: timedelta
    longest: timedelta

    def after(self, found: ClaimResult, *, woken: bool, previous: timedelta) -> timedelta:
        """
        The pause after what was *found*; the *previous* one was so long.

        *woken* says that the database tells of new rows, so that nothing is missed meanwhile.
        """
        if found.more:
            return timedelta(0) if found.rows else self.shortest
        if found.rows:
            # Only a look that finds nothing ends in a long pause: what another claim held, or a
            # batch had no room for, rings nobody.
            return timedelta(0) if woken else self.shortest
        if woken:
            return self.longest
        return min(max(previous * 2, self.shortest), self.longest)


@dataclass(slots=True)
class LoadMeter:
    """
    Whether rows come so fast that to look for them often costs less than to be told of each.

    Args:
        rows: So many are many,
        within_seconds: in this time.

    """

    rows: int = 64
    within_seconds: float = 0.1
    _since: float = 0.0
    _count: int = 0

    def is_high(self, rows: int, *, now: float) -> bool:
        """Take note of *rows* more at *now*, in seconds, and answer."""
        if now - self._since > self.within_seconds:
            self._since, self._count = now, 0
        self._count += rows
        return self._count >= self.rows
