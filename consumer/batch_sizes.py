"""
The number of messages of a handler that share a transaction, unless its registration says: pure.

    1 ──the calls are short──▶ 8 ──all calls succeed──▶ 16 ──▶ 32 ──▶ 64
    ▲                          │                         │
    └──────────────────────────┴── halved when calls are long, or one fails

A transaction costs many times as much as the call of a short handler, so waiting messages of such
a handler share one. Long calls are better in transactions of their own, which run concurrently. A
call that fails lets all of its transaction be repeated, so failures make transactions smaller.

A handler with a circuit breaker or a rate limit counts each of its calls, so its messages never
share a transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from consumer.handler import Handler

MOST_MESSAGES = 64
LEAST_MESSAGES = 8
"""The fewest messages for which a transaction is shared; below it is 1."""
LONG_CALL = timedelta(milliseconds=2.5)
LONGEST_CALLS = timedelta(milliseconds=100)
"""No further handler is called in a transaction after this time."""
FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(seconds=10)


@dataclass(slots=True)
class BatchSize:
    """The number of messages that share a transaction; times are seconds of one clock."""

    _size: int = 1
    _has_short_calls: bool = False
    _alone_until: float = 0.0
    _pause: timedelta = FIRST_PAUSE

    def at(self, now: float) -> int:
        """The most messages of a batch that begins at *now*."""
        if self._size == 1 and self._has_short_calls and now >= self._alone_until:
            return LEAST_MESSAGES
        return self._size

    def called(self, count: int, took: timedelta, now: float) -> None:
        """Record that *count* calls, which *took* this time together, were committed."""
        self._has_short_calls = took <= LONG_CALL * max(count, LEAST_MESSAGES)
        if not self._has_short_calls:
            self._shrink(now)
            return
        if count >= self.at(now) >= LEAST_MESSAGES:
            self._size = min(self.at(now) * 2, MOST_MESSAGES)
        if self._size == MOST_MESSAGES:
            self._pause = FIRST_PAUSE

    def failed(self, took: timedelta, now: float) -> None:
        """Record that calls which *took* this time together were rolled back for a failure."""
        if took > LONGEST_CALLS:
            # Neighbours of such a call wait for it, and would wait again.
            self._size, self._has_short_calls = 1, False
        self._shrink(now)

    def _shrink(self, now: float) -> None:
        self._size = half if (half := self._size // 2) >= LEAST_MESSAGES else 1
        if self._size == 1 and now >= self._alone_until:
            self._alone_until = now + self._pause.total_seconds()
            self._pause = min(self._pause * 2, LONGEST_PAUSE)


class BatchSizes:
    """The `BatchSize` of each of *handlers* that leaves it open."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._sizes = {
            name: BatchSize()
            for name, handler in handlers.items()
            if handler.batch_size is None and not (handler.circuit_breaker or handler.rate_limit)
        }

    def called(self, handler: Handler, durations: Mapping[str, timedelta], now: float) -> None:
        """Record the *durations* of calls whose effects are committed."""
        if durations and (size := self.of(handler)) is not None:
            size.called(len(durations), sum(durations.values(), timedelta(0)), now)

    def failed(self, handler: Handler, took: timedelta, now: float) -> None:
        """Record that calls of *handler* were rolled back after this time."""
        if (size := self.of(handler)) is not None:
            size.failed(took, now)

    def of(self, handler: Handler) -> BatchSize | None:
        """The size for *handler*; None if its registration gives one."""
        return self._sizes.get(handler.event_type)
