"""
How the number of processes follows a backlog.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import pytest

from consumer.supervision.scaling import HandledRate, Limits, Load, Pace, State, decide

PACE = Pace()
LIMITS = Limits(1, 8)
LOOK = PACE.look_every.total_seconds()
MINUTE, HOUR = 60.0, 3600.0
PER_PROCESS = 10
"""Messages that a process of these tests handles in a second."""


@dataclass
class Queue:
    """A queue whose processes are ready at once; a message waits while all of them work."""

    number: int = 1
    waiting: float = 0.0
    now: float = 0.0
    limits: Limits = LIMITS
    state: State = field(default_factory=lambda: State(PACE.cooldown))
    numbers: list[int] = field(default_factory=list)

    def run(self, seconds: float, *, arriving: float) -> list[int]:
        """Let *arriving* messages come in a second; returns the numbers that were decided."""
        began = len(self.numbers)
        for _ in range(round(seconds / LOOK)):
            self.now += LOOK
            handled = min(self.waiting + arriving * LOOK, self.number * PER_PROCESS * LOOK)
            self.waiting += arriving * LOOK - handled
            load = Load(self.now, round(self.waiting), handled / LOOK, self.number, self.number)
            self.state, self.number = decide(self.state, load, self.limits, PACE)
            self.numbers.append(self.number)
        return self.numbers[began:]


def changes(numbers):
    return sum(one != other for one, other in pairwise(numbers))


def test_a_backlog_doubles_the_processes_at_most_once_in_a_window():
    numbers = Queue(waiting=100_000).run(3 * MINUTE, arriving=0)

    assert sorted(set(numbers)) == [1, 2, 4, 8]
    growths = [at for at, (a, b) in enumerate(zip([1, *numbers], numbers, strict=False)) if b > a]
    assert all(
        (later - earlier) * LOOK >= PACE.window.total_seconds()
        for earlier, later in pairwise(growths)
    )


def test_a_backlog_that_needs_little_more_gets_little_more():
    queue = Queue(number=8, waiting=8 * PER_PROCESS * 11, limits=Limits(1, 32))

    assert max(queue.run(MINUTE, arriving=8 * PER_PROCESS)) == 9


def test_a_burst_that_is_gone_at_the_next_look_starts_no_process():
    queue = Queue(waiting=150)

    assert set(queue.run(10 * MINUTE, arriving=0)) == {1}


def test_handlers_that_finished_nothing_yet_count_as_too_slow():
    load = Load(at=0, waiting=5, rate=0, processes=1, ready=1)
    state, number = decide(State(PACE.cooldown), load, LIMITS, PACE)
    assert number == 1

    later = Load(at=30, waiting=5, rate=0, processes=1, ready=1)
    assert decide(state, later, LIMITS, PACE)[1] == 2


def test_an_empty_queue_stops_processes_one_cooldown_after_another():
    queue = Queue(number=8)

    assert set(queue.run(4 * MINUTE, arriving=0)) == {8}
    assert set(queue.run(2 * MINUTE, arriving=0)) == {8, 6}
    queue.run(HOUR, arriving=0)
    assert queue.number == 1


def test_the_number_never_leaves_the_limits():
    queue = Queue(number=2, limits=Limits(2, 3))

    assert set(queue.run(HOUR, arriving=1000)) <= {2, 3}
    queue.waiting = 0
    assert set(queue.run(HOUR, arriving=0)) <= {2, 3}


def test_a_load_between_two_numbers_stops_changing_the_number_often():
    """It needs 1.5 processes: with one the backlog grows, with two it is empty."""
    queue = Queue()
    first = changes(queue.run(2 * HOUR, arriving=1.5 * PER_PROCESS))
    queue.run(4 * HOUR, arriving=1.5 * PER_PROCESS)
    later = changes(queue.run(4 * HOUR, arriving=1.5 * PER_PROCESS))

    assert first <= 12
    assert later <= 8
    assert queue.waiting < 2 * PER_PROCESS * MINUTE


def test_a_load_that_was_quiet_for_long_is_followed_at_the_usual_pace_again():
    queue = Queue(state=State(PACE.longest_cooldown, shrunk_at=-2 * HOUR))
    queue.waiting = 10_000
    queue.run(2 * MINUTE, arriving=0)

    assert queue.number > 1
    assert queue.state.cooldown == PACE.cooldown


def test_a_wait_between_the_bounds_changes_nothing():
    queue = Queue(number=4, waiting=4 * PER_PROCESS * 5)

    assert set(queue.run(HOUR, arriving=4 * PER_PROCESS)) == {4}


@pytest.mark.parametrize("waiting", [0, 100_000])
def test_while_a_process_is_not_ready_the_number_stays(waiting):
    state = State(PACE.cooldown, late_since=0, short_since=0)
    load = Load(at=HOUR, waiting=waiting, rate=0, processes=4, ready=3)

    state, number = decide(state, load, LIMITS, PACE)

    assert number == 4
    assert state == State(PACE.cooldown)


def test_a_rate_is_measured_over_the_window():
    rate = HandledRate(timedelta(seconds=30))

    assert rate.sample(0, {1: 0}) == 0
    assert rate.sample(10, {1: 100}) == 10
    assert rate.sample(20, {1: 400}) == 20
    assert rate.sample(30, {1: 400}) == pytest.approx(400 / 30)
    assert rate.sample(40, {1: 400}) == 10
    assert rate.sample(50, {1: 400}) == 0


def test_a_process_that_was_replaced_counts_from_zero():
    rate = HandledRate(timedelta(seconds=30))
    rate.sample(0, {1: 1000, 2: 10})

    assert rate.sample(10, {2: 30, 3: 80}) == 10
