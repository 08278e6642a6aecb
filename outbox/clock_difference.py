"""
How far the clock of a server is from the clock of this host.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

EXACT = timedelta(0)


@dataclass(frozen=True, slots=True)
class ClockDifference:
    """
    The server's clock is ahead of this host by at least *least* and at most *most*.

    Both are negative if it is behind.
    """

    least: timedelta
    most: timedelta

    @property
    def certain(self) -> timedelta:
        """The smallest difference that explains what was read; zero if the clocks may agree."""
        if self.least <= EXACT <= self.most:
            return EXACT
        return min(self.least, self.most, key=abs)


def between(
    server: datetime, *, before: datetime, after: datetime, step: timedelta = EXACT
) -> ClockDifference:
    """
    Return the difference if *server* was read *before* and *after* these times of this host.

    The clock of the server may show a time for as long as *step*.
    """
    return ClockDifference(server - after, server + step - before)
