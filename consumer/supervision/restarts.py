"""
The decision after a process has ended by itself: pure.

    exit code               the supervisor
    0, 4, SIGTERM           starts it again: a person or the system has stopped it
    3, unreachable          starts it again, for ever, with growing pauses
    2, bad configuration    gives up, unless another process works: then it starts it again
    1, a signal, others     starts it again with growing pauses; gives up after too many crashes

Crashes of all processes count together. While no process has taken messages, a few of them are
enough, since the program is wrong. Later the limit is above the number of processes that one
message may end before it is dead-lettered, so that such a message does not stop the consumer.
"""

import signal
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from outbox.backoff import Exponential
from outbox.runtime.service import ExitCode

PAUSES = Exponential(timedelta(seconds=0.5), cap=timedelta(seconds=5))
LONGEST_PAUSE = PAUSES.cap
STEADY = timedelta(minutes=1)
"""A process that has run for so long has not failed to start: its pauses begin again."""

CRASHES_AT_START = 5
"""Crashes after which the supervisor gives up while no process has ever taken messages."""
LEAST_CRASHES = 10
CRASHES_OF_A_MESSAGE = 2
"""The limit of crashes is that many times MQ_DELIVERY_LIMIT, and at least `LEAST_CRASHES`."""
TIME_OF_A_CRASH = timedelta(seconds=10)
"""The limit counts within this time for each of its crashes."""

_STOPPED = frozenset({ExitCode.STOPPED, ExitCode.DRAIN_DEADLINE, -signal.SIGTERM})


@dataclass(frozen=True, slots=True)
class Ended:
    """
    A process that has ended by itself.

    Args:
        code: Its exit code, negative for a signal.
        lived: The time since its start.
        others_ready: Whether another process is ready.

    """

    code: int
    lived: timedelta
    others_ready: bool


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the process again after *pause*."""

    pause: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop all processes, and end with *code*."""

    code: ExitCode


Decision: TypeAlias = Restart | GiveUp


class Crashes:
    """
    The crashes of all processes, of which at most a limit is allowed.

    *delivery_limit* is MQ_DELIVERY_LIMIT. Times are in seconds that never go back.
    """

    def __init__(self, delivery_limit: int) -> None:
        self._limit = max(LEAST_CRASHES, CRASHES_OF_A_MESSAGE * delivery_limit)
        self._times: deque[float] = deque()
        self.has_started = False

    def are_too_many(self, now: float) -> bool:
        """Count a crash at the time *now*; return whether the limit is reached."""
        since = now - (self._limit * TIME_OF_A_CRASH).total_seconds()
        self._times.append(now)
        while self._times[0] < since:
            self._times.popleft()
        limit = self._limit if self.has_started else CRASHES_AT_START
        return len(self._times) >= limit


def decide(ended: Ended, attempt: int, crashes: Crashes, now: float) -> Decision:
    """
    The decision on a process that has *ended* for the time number *attempt*, from 1 on.

    It counts a crash at the time *now* in *crashes*. A process that has lived for `STEADY` begins
    with attempt 1 again.
    """
    if ended.code in _STOPPED:
        return Restart(PAUSES.first)
    if ended.code == ExitCode.BAD_CONFIGURATION:
        return Restart(LONGEST_PAUSE) if ended.others_ready else GiveUp(ExitCode.BAD_CONFIGURATION)
    if ended.code != ExitCode.UNREACHABLE and crashes.are_too_many(now):
        return GiveUp(ExitCode.CRASH_LIMIT)
    return Restart(PAUSES.delay(attempt) or LONGEST_PAUSE)
