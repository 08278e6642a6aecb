"""
How much is measured, and what is said meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass

LEAST_ROWS = 500
LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The extent of a run.

    Args:
        rounds: How often each contender has its turn.
        scale: What part of the full number of rows and seconds is used.
        say: Where progress goes.

    """

    rounds: int
    scale: float
    say: Callable[[str], None]

    def rows(self, full: int) -> int:
        """How many rows instead of *full*."""
        return max(int(full * self.scale), min(full, LEAST_ROWS))

    def seconds(self, full: float) -> float:
        """How many seconds instead of *full*."""
        return max(full * self.scale, min(full, LEAST_SECONDS))
