"""
Retry policies: pure functions from the number of an attempt to a delay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


class RetryPolicy(Protocol):
    """Decides how long to wait after a failed attempt."""

    def delay(self, attempt: int, *, jitter: float = 1.0) -> timedelta | None:
        """
        Return the wait after failed attempt number *attempt*, from 1 on; None for no further one.

        *jitter* in [0, 1) spreads the waits of many messages; with fixed delays it may be ignored.
        """


@dataclass(frozen=True, slots=True)
class Exponential:
    """
    Delays that grow by *factor*, with a cap and "equal jitter": half is fixed, half is random.

    The term is from Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(minutes=5)
    max_attempts: int | None = None
    factor: int = 2

    def delay(self, attempt: int, *, jitter: float = 1.0) -> timedelta | None:
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        # 2**40 times any delay exceeds every cap; the bound keeps the numbers small.
        growth: int = min(self.factor ** min(attempt - 1, 40), 2**40)
        full = min(self.first * growth, self.cap)
        return full / 2 + full / 2 * jitter


MOST_LEVELS = 16


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """
    One fixed delay per attempt, repeating the last one, for at most *max_retries* retries.

    The delays are fixed because the broker has one retry queue for each. With *jitter* half of the
    retries wait for the next longer delay, so that messages that failed together are spread.

    Raises ValueError unless there are 1 to 16 positive *delays* of type timedelta.
    """

    delays: Sequence[timedelta]
    max_retries: int
    jitter: bool = False

    def __post_init__(self) -> None:
        if not all(isinstance(delay, timedelta) for delay in self.delays):
            raise ValueError("delays: must be of type timedelta")
        if not 1 <= len(self.delays) <= MOST_LEVELS or min(self.delays) <= timedelta(0):
            raise ValueError(f"delays: must be 1 to {MOST_LEVELS}, and positive")
        if self.max_retries < 0:
            raise ValueError("max_retries: must not be negative")

    @classmethod
    def exponential(
        cls,
        first: timedelta,
        cap: timedelta,
        *,
        max_retries: int,
        factor: int = 2,
        jitter: bool = False,
    ) -> "RetrySchedule":
        """
        Delays that grow by *factor* from *first* up to *cap*.

        Raises ValueError if that makes more than 16 delays.
        """
        if factor < 2:  # noqa: PLR2004 - it would never reach the cap
            raise ValueError("factor: must be at least 2")
        delays = [min(first, cap)]
        while delays[-1] < cap and len(delays) <= MOST_LEVELS:
            delays.append(min(delays[-1] * factor, cap))
        return cls(delays, max_retries, jitter)

    @property
    def longest(self) -> timedelta:
        """The longest time that all retries of a message can wait together."""
        return sum(
            (
                self._delay(attempt, later=self.jitter)
                for attempt in range(1, self.max_retries + 1)
            ),
            timedelta(0),
        )

    def delay(self, attempt: int, *, jitter: float = 1.0) -> timedelta | None:
        if attempt > self.max_retries:
            return None
        return self._delay(attempt, later=self.jitter and jitter >= 0.5)  # noqa: PLR2004

    def _delay(self, attempt: int, *, later: bool) -> timedelta:
        return self.delays[min(max(attempt, 1) - 1 + later, len(self.delays) - 1)]
