"""
How long the relay pauses before its next claim, and when the load is high: pure.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """
    The size of a claim.

    Args:
        rows: The number of claimed rows.
        more: Whether another claim may find rows right now.

    """

    rows: int
    more: bool


@dataclass(frozen=True, slots=True)
class PollInterval:
    """Pauses between *shortest* and *longest*; they double while the outbox stays empty."""

    shortest: timedelta
    longest: timedelta

    def after(
        self, claimed: ClaimResult, *, woken: bool, notified: bool, previous: timedelta
    ) -> timedelta:
        """
        The pause after a claim with the result *claimed*; the *previous* pause was that long.

        *woken* means that the database notifies the relay of new rows during the pause, and
        *notified* that it did so during the claim.
        """
        if claimed.more:
            return timedelta(0) if claimed.rows else self.shortest
        if claimed.rows:
            # A row that was notified during the claim may be of a key that the claim held. Without
            # such a row the claim has left none.
            if not woken:
                return self.shortest
            return timedelta(0) if notified else self.longest
        if woken:
            return self.longest
        return min(max(previous * 2, self.shortest), self.longest)


@dataclass(slots=True)
class LoadMeter:
    """
    Whether rows arrive so fast that frequent polling costs less than a notification for each.

    Args:
        rows: The load is high from this many rows on,
        within_seconds: in this time.

    """

    rows: int = 64
    within_seconds: float = 0.1
    _since: float = 0.0
    _count: int = 0

    def is_high(self, rows: int, *, now: float) -> bool:
        """Count *rows* more at *now*, in seconds; returns whether the load is high."""
        if now - self._since > self.within_seconds:
            self._since, self._count = now, 0
        self._count += rows
        return self._count >= self.rows
