"""
How many durations there were up to each bound: the value of a histogram, without I/O.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

MOST = 10**12
"""No number in the report of a process is larger; as seconds it is still a duration."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """
    Durations in seconds.

    Args:
        bounds: The upper bounds of the buckets, ascending; one more bucket has no bound.
        counts: The number of durations in each bucket.
        total: The sum of all durations.

    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The mean duration; None if there is none."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """
        Return the duration that *share* of all does not exceed, as far as the buckets tell.

        Within a bucket it is interpolated, as Prometheus does; in the last one it is the highest
        bound. None if there is no duration.
        """
        if not self.count:
            return None
        wanted = share * self.count
        up_to = list(accumulate(self.counts))
        number = bisect_left(up_to, wanted)
        if number >= len(self.bounds):
            return float(self.bounds[-1])
        lower = self.bounds[number - 1] if number else 0.0
        before = up_to[number] - self.counts[number]
        within = (wanted - before) / self.counts[number] if self.counts[number] else 0.0
        return lower + (self.bounds[number] - lower) * within

    def since(self, earlier: Self) -> Self:
        """Return the durations that *earlier*, a former state of the same histogram, has not."""
        counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
        return type(self)(self.bounds, counts, self.total - earlier.total)

    def as_json(self) -> dict[str, Any]:
        """The distribution as JSON."""
        return {"bounds": [*self.bounds], "counts": [*self.counts], "total": round(self.total, 6)}

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """Return the distribution in *value*; None if it is none that this version can read."""
        try:
            bounds = [float(bound) for bound in value["bounds"]]
            counts = [int(count) for count in value["counts"]]
            total = float(value["total"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        fits = bounds and len(counts) == len(bounds) + 1 and min(counts) >= 0
        # Not the other way round: every comparison with NaN is false.
        is_bounded = all(abs(number) <= MOST for number in (*bounds, *counts, total))
        return cls(bounds, counts, total) if fits and is_bounded else None


def together(distributions: Iterable[Distribution]) -> Distribution | None:
    """
    Return the durations of all *distributions*; None if there is none.

    Those with other bounds than the first one, from another version of the program, are left out.
    """
    found = list(distributions)
    if not found:
        return None
    bounds = list(found[0].bounds)
    same = [each for each in found if list(each.bounds) == bounds]
    counts = [sum(numbers) for numbers in zip(*(each.counts for each in same), strict=True)]
    return Distribution(bounds, counts, sum(each.total for each in same))
