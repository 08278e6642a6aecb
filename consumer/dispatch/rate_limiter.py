"""
The state of a rate limit: pure, with the time as an argument.

The generic cell rate algorithm (ITU-T I.371, annex A) in its form with a theoretical arrival time.
"""

from consumer.handler import RateLimit


class RateLimiter:
    """Decides when the next message may be handled; a full allowance can be used at once."""

    def __init__(self, limit: RateLimit) -> None:
        self._interval = limit.interval
        self._allowance = limit.messages
        self._arrival = 0.0

    def allowed(self, now: float) -> int:
        """How many messages may be handled now."""
        ahead = max(self._arrival - now, 0.0)
        # Without the margin a rounding error would delay a message that has waited long enough.
        return int(self._allowance - ahead / self._interval + 1e-6)

    def next_at(self, count: int) -> float | None:
        """When *count* messages may be handled; None if that is more than the allowance."""
        if count > self._allowance:
            return None
        return self._arrival - (self._allowance - count) * self._interval

    def taken(self, count: int, now: float) -> None:
        """Record that *count* messages are being handled."""
        self._arrival = max(self._arrival, now) + count * self._interval
