"""
When to try again: pure functions from an attempt to a delay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


class RetryPolicy(Protocol):
    """Says how long to wait after a failed attempt."""

    def delay(self, attempt: int, *, chance: float = 1.0) -> timedelta | None:
        """
        How long to wait after failed attempt number *attempt*, from 1 on, or None to give up.

        *chance* in [0, 1) spreads the waits of many rows; policies with fixed delays ignore it.
        """


@dataclass(frozen=True, slots=True)
class Exponential:
    """
    Doubling delays with a cap and "equal jitter": half the delay is fixed, half is chance.

    The jitter is the one called so in Marc Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015.
    """

    first: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(minutes=5)
    max_attempts: int | None = None

    def delay(self, attempt: int, *, chance: float = 1.0) -> timedelta | None:
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        # 2**40 times any delay is past every cap; the bound keeps the arithmetic small.
        doublings: int = 2 ** min(attempt - 1, 40)
        full = min(self.first * doublings, self.cap)
        return full / 2 + full / 2 * chance


@dataclass(frozen=True, slots=True)
class Levels:
    """
    One fixed delay per attempt, the last one repeated, until *max_retries* are used up.

    Fixed, because each delay is a queue of its own in the broker.
    """

    delays: Sequence[timedelta]
    max_retries: int

    def delay(self, attempt: int, *, chance: float = 1.0) -> timedelta | None:
        del chance
        if attempt > self.max_retries or not self.delays:
            return None
        return self.delays[min(max(attempt, 1), len(self.delays)) - 1]
