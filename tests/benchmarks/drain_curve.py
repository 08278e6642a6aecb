"""
The rows of a table that are gone, over time; pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WARM_UP_DIVISOR = 50
"""A new process is slow at first: it connects, and prepares its statements."""


@dataclass(frozen=True, slots=True)
class Sample:
    """At the time *at*, in seconds of the monotonic clock, *gone* rows were gone."""

    at: float
    gone: int


@dataclass(frozen=True, slots=True)
class DrainCurve:
    """Samples in order; the first is the commit that made the rows appear, with none gone."""

    samples: Sequence[Sample]

    @property
    def began(self) -> float:
        """When the rows appeared."""
        return self.samples[0].at

    @property
    def gone(self) -> int:
        """How many rows were gone at the end."""
        return self.samples[-1].gone

    def passed(self, gone: float) -> float:
        """When *gone* rows were gone for the first time, interpolated linearly between samples."""
        for before, after in pairwise(self.samples):
            if before.gone < gone <= after.gone:
                share = (gone - before.gone) / (after.gone - before.gone)
                return before.at + share * (after.at - before.at)
        return self.began if gone <= self.samples[0].gone else self.samples[-1].at

    def rate(self, first: float = 0, last: float | None = None) -> float:
        """Rows per second from row *first* to row *last*; 0 if no time passed between them."""
        end = self.gone if last is None else min(last, self.gone)
        seconds = self.passed(end) - self.passed(first)
        return (end - first) / seconds if seconds > 0 else 0.0

    def under_way(self, rows: int) -> "DrainCurve":
        """The curve without the warm-up: from when a fiftieth of *rows* was gone."""
        enough = max(rows // WARM_UP_DIVISOR, 1)
        first = next((i for i, sample in enumerate(self.samples) if sample.gone >= enough), 0)
        return DrainCurve(self.samples[first:])
