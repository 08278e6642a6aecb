"""
The state of a circuit breaker: pure, with the time as an argument.

    closed ──failures in a row──▶ open ──pause over──▶ one attempt ──success──▶ closed
                                   ▲                        │
                                   └────────failure─────────┘

Results of calls that began before the breaker opened are ignored: only the one attempt counts.

Michael Nygard, "Release It!", 2007, describes the pattern and its states.
"""

from consumer.handler import CircuitBreaker


class Breaker:
    """Decides whether a handler may be called, from the results of its earlier calls."""

    def __init__(self, options: CircuitBreaker) -> None:
        self._options = options
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether a failure counts as a failed attempt at the message."""
        return self._open_until is None

    @property
    def allows_at(self) -> float | None:
        """The time from which the one attempt is allowed; None while closed or probing."""
        return None if self._probing else self._open_until

    @property
    def is_probing(self) -> bool:
        """Whether the one attempt is in progress."""
        return self._probing

    def allows(self, now: float) -> bool:
        """Whether the handler may be called now."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    def called(self) -> None:
        """Record that the handler is being called."""
        self._probing = self._open_until is not None

    def succeeded(self) -> None:
        """Record that the handler succeeded, or rejected a message for a reason of its own."""
        if self.is_closed or self._probing:
            self._failures = 0
            self._open_until = None
            self._probing = False

    def skipped(self) -> None:
        """Record that the handler was not called after all."""
        self._probing = False

    def failed(self, now: float) -> None:
        """Record that the handler failed."""
        if not self.is_closed and not self._probing:
            return
        self._failures += 1
        if self._failures >= self._options.failures:
            self._open_until = now + self._options.pause.total_seconds()
        self._probing = False
