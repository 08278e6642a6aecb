"""
The extent of a run, and its progress messages.
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
        rounds: How often each contender is measured.
        scale: The share of the full number of rows and seconds.
        say: Called with progress messages.

    """

    rounds: int
    scale: float
    say: Callable[[str], None]

    def rows(self, full: int) -> int:
        """The number of rows for a *full* number."""
        return max(int(full * self.scale), min(full, LEAST_ROWS))

    def seconds(self, full: float) -> float:
        """The number of seconds for a *full* number."""
        return max(full * self.scale, min(full, LEAST_SECONDS))
