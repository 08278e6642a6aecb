"""
The number of processes that a backlog needs: pure.

The measure is the wait: the messages that are ready in the work queue, divided by the number that
all processes handled in a second. A message that arrives now has about that long to wait.

    the wait                                  the number of processes
    above `long_wait` for a whole window      grows in proportion, at most to the double
    at most `short_wait` for a cool-down      shrinks by a quarter, at least by one
    between the two                           stays
    any, while a process is not ready         stays: a start or an outage says nothing of the load

A backlog that comes back within the cool-down after a shrink shows that the processes were needed.
Then the next cool-down is twice as long, up to `longest_cooldown`; so a load between two numbers
costs a late minute now and then, and no restart every few minutes.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """The least and the greatest number of processes."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How soon the number follows the load.

    Args:
        look_every: Time between two looks at the queue.
        window: The time over which the rate is measured, and for which a backlog has to last.
        long_wait: Above it there are too few processes.
        short_wait: Up to it there may be too many.
        cooldown: How long the wait has to stay short before the number shrinks.
        longest_cooldown: The cool-down of a load that needs the processes again and again.

    """

    look_every: timedelta = timedelta(seconds=10)
    window: timedelta = timedelta(seconds=30)
    long_wait: timedelta = timedelta(seconds=10)
    short_wait: timedelta = timedelta(seconds=1)
    cooldown: timedelta = timedelta(minutes=5)
    longest_cooldown: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Load:
    """
    One look at the queue and the processes.

    Args:
        at: The time, in seconds that never go back.
        waiting: Messages that are ready in the work queue.
        rate: Messages handled in a second by all processes, over the window.
        processes: The number of processes that shall run.
        ready: The number of those that are ready.

    """

    at: float
    waiting: int
    rate: float
    processes: int
    ready: int

    @property
    def wait(self) -> float:
        """Seconds until a message that arrives now is handled."""
        if self.waiting == 0:
            return 0.0
        return self.waiting / self.rate if self.rate > 0 else math.inf


@dataclass(frozen=True, slots=True)
class State:
    """Since when the wait is long, or short; when the number shrank; the present cool-down."""

    cooldown: timedelta
    late_since: float | None = None
    short_since: float | None = None
    shrunk_at: float | None = None


def decide(state: State, load: Load, limits: Limits, pace: Pace) -> tuple[State, int]:
    """The number of processes from now on, and the state for the next look."""
    if load.ready < load.processes:
        return replace(state, late_since=None, short_since=None), load.processes
    if load.wait > pace.long_wait.total_seconds():
        return _late(state, load, limits, pace)
    if load.wait <= pace.short_wait.total_seconds():
        return _short(state, load, limits)
    return replace(state, late_since=None, short_since=None), load.processes


def _late(state: State, load: Load, limits: Limits, pace: Pace) -> tuple[State, int]:
    since = load.at if state.late_since is None else state.late_since
    if load.processes >= limits.maximum or load.at - since < pace.window.total_seconds():
        return replace(state, late_since=since, short_since=None), load.processes
    needed = load.processes * load.wait / pace.long_wait.total_seconds()
    number = min(2 * load.processes, limits.maximum, math.ceil(min(needed, limits.maximum)))
    cooldown = pace.cooldown
    if state.shrunk_at is not None and load.at - state.shrunk_at < state.cooldown.total_seconds():
        cooldown = min(2 * state.cooldown, pace.longest_cooldown)
    return State(cooldown), number


def _short(state: State, load: Load, limits: Limits) -> tuple[State, int]:
    since = load.at if state.short_since is None else state.short_since
    is_over = load.at - since >= state.cooldown.total_seconds()
    if load.processes <= limits.minimum or not is_over:
        return replace(state, late_since=None, short_since=since), load.processes
    number = max(limits.minimum, load.processes - max(1, load.processes // 4))
    return State(state.cooldown, short_since=load.at, shrunk_at=load.at), number


class HandledRate:
    """The messages that all processes handle in a second, over a *window*."""

    def __init__(self, window: timedelta) -> None:
        self._window = window.total_seconds()
        self._last: Mapping[int, int] = {}
        self._total = 0
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, at: float, handled: Mapping[int, int]) -> float:
        """
        The rate at the time *at*; *handled* are the counters of the processes by their ids.

        It is 0 at the first call, as no time has passed.
        """
        for process, count in handled.items():
            self._total += count - self._last.get(process, 0)
        self._last = dict(handled)
        self._samples.append((at, self._total))
        while len(self._samples) > 2 and at - self._samples[1][0] >= self._window:  # noqa: PLR2004
            self._samples.popleft()
        then, before = self._samples[0]
        return (self._total - before) / (at - then) if at > then else 0.0
