"""
The time that a test lets pass.
"""

from datetime import timedelta


class SkippingClock:
    """
    A clock that stands still, until the test lets time pass: `skipped` is all of it.

    Retry queues, circuit breakers and rate limits follow this clock. The clocks of servers cannot
    be stopped or moved, so times that the database keeps are moved into the past instead.
    """

    def __init__(self) -> None:
        self.skipped = timedelta(0)

    def advance(self, duration: timedelta) -> None:
        """Let *duration* pass."""
        self.skipped += duration

    def now(self) -> float:
        """Seconds that never go back."""
        return self.skipped.total_seconds()
