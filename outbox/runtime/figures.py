"""
What a process reports of its work in `outbox_processes`: its own side, and that of a reader.

Counters since the start, and counters and times of the last minute, so that one reading is enough
for rates. No figure has an id, a key or anything else of an event.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from outbox.runtime.batch_histogram import BatchHistogram
from outbox.runtime.distribution import MOST, Distribution

RECENT = timedelta(minutes=1)
"""How far back the figures of the last minute reach; they reach less far in a young process."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    counts: Mapping[str, int]
    lags: Mapping[str, Distribution]


class Figures:
    """
    The figures of this process.

    `counts` are its counters by name, and `facts` what else it says about itself, as JSON values.
    *lags* are its histograms by name. *began* is the time of its start, in seconds that never go
    back.
    """

    def __init__(
        self,
        *,
        began: float,
        lags: Mapping[str, BatchHistogram] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.facts: dict[str, Any] = {}
        self._lags = dict(lags or {})
        self._samples = deque([self._sample(began)])

    @property
    def total(self) -> int:
        """The sum of all counters; another thread may read it."""
        return sum(tuple(self.counts.values()))

    def report(self, now: float) -> dict[str, Any]:
        """
        Return the figures at the time *now* as JSON.

        Each call is remembered, so that later ones can say what happened since.
        """
        current = self._sample(now)
        while len(self._samples) > 1 and now - self._samples[1].at >= RECENT.total_seconds():
            self._samples.popleft()
        then = self._samples[0]
        self._samples.append(current)
        recent = {name: count - then.counts.get(name, 0) for name, count in current.counts.items()}
        return {
            "since_start": dict(current.counts),
            "seconds": round(now - then.at, 3),
            "recent": {name: count for name, count in recent.items() if count},
            "lag": {
                name: lag.since(then.lags[name]).as_json() for name, lag in current.lags.items()
            },
            **self.facts,
        }

    def _sample(self, at: float) -> _Sample:
        lags = {name: histogram.distribution for name, histogram in self._lags.items()}
        return _Sample(at, dict(self.counts), lags)


@dataclass(frozen=True, slots=True)
class ReportedFigures:
    """
    The figures of another process, as far as this version can read them.

    Args:
        since_start: Its counters since its start.
        rates: How much its counters grew in a second, over the last minute.
        lags: The times of the last minute, by name.
        facts: All else that it reports.

    """

    since_start: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    lags: Mapping[str, Distribution] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_figures(value: Any) -> ReportedFigures:
    """Return the figures in the JSON *value*; what another version wrote otherwise is absent."""
    if not isinstance(value, Mapping):
        return ReportedFigures()
    given: Any = value.get("seconds")
    is_known = isinstance(given, int | float) and _SHORTEST <= given <= _LONGEST
    recent = _numbers(value.get("recent")) if is_known else {}
    lags = {
        str(name): lag
        for name, each in _items(value.get("lag"))
        if (lag := Distribution.from_json(each)) is not None
    }
    return ReportedFigures(
        since_start=_numbers(value.get("since_start")),
        rates={name: number / given for name, number in recent.items()},
        lags=lags,
        facts={name: each for name, each in value.items() if name not in _OWN},
    )


_OWN = {"since_start", "seconds", "recent", "lag"}
_SHORTEST, _LONGEST = 0.001, timedelta(days=366).total_seconds()


def _numbers(value: Any) -> dict[str, int]:
    items = _items(value)
    return {str(name): n for name, n in items if type(n) is int and abs(n) <= MOST}


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []
