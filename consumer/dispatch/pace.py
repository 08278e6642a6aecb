"""
When a handler may be called, by its circuit breaker and its rate limit: pure.
"""

from consumer.dispatch.circuit_breaker import Breaker
from consumer.dispatch.rate_limiter import RateLimiter
from consumer.handler import Handler


class Pace:
    """The circuit breaker and the rate limit of *handler*, which has at least one of them."""

    def __init__(self, handler: Handler) -> None:
        self.breaker = Breaker(handler.circuit_breaker) if handler.circuit_breaker else None
        self._rate = RateLimiter(handler.rate_limit) if handler.rate_limit else None

    def allows(self, count: int, now: float) -> bool:
        """Whether *count* messages may be handled now."""
        return (self.breaker is None or self.breaker.allows(now)) and (
            self._rate is None or self._rate.allowed(now) >= count
        )

    def most(self, count: int, now: float) -> int:
        """How many of *count* messages may be handled now: one, if that is a trial."""
        if self.breaker is not None and not self.breaker.is_closed:
            return 1
        return count if self._rate is None else min(count, self._rate.allowed(now))

    def allows_at(self, count: int) -> float | None:
        """The time from which it allows *count*; None if no time has to pass, or is not enough."""
        if self.breaker is not None and self.breaker.is_probing:
            return None
        times = [self.breaker.allows_at if self.breaker else None]
        if self._rate is not None:
            if (allowed_at := self._rate.next_at(count)) is None:
                return None
            times.append(allowed_at)
        return max((time for time in times if time is not None), default=None)

    def called(self, count: int, now: float) -> None:
        """Record that *count* messages are being handled."""
        if self.breaker is not None:
            self.breaker.called()
        if self._rate is not None:
            self._rate.taken(count, now)

    def ended(self, now: float, *, failed: bool | None) -> None:
        """Record the result of a call; None if there was none."""
        if self.breaker is None:
            return
        if failed is None:
            self.breaker.skipped()
        elif failed:
            self.breaker.failed(now)
        else:
            self.breaker.succeeded()
