"""
The decision of a supervisor after a process has ended by itself.
"""

import signal
from datetime import timedelta

import pytest

from consumer.supervision.restarts import (
    CRASHES_AT_START,
    LONGEST_PAUSE,
    PAUSES,
    Crashes,
    Ended,
    GiveUp,
    Restart,
    decide,
)
from outbox.runtime.service import ExitCode

SHORT = timedelta(seconds=2)
DELIVERY_LIMIT = 20


@pytest.fixture
def crashes():
    made = Crashes(DELIVERY_LIMIT)
    made.has_started = True
    return made


def after(code, crashes, *, attempt=1, now=0.0, others_ready=False):
    return decide(Ended(code, SHORT, others_ready), attempt, crashes, now)


@pytest.mark.parametrize("code", [ExitCode.STOPPED, ExitCode.DRAIN_DEADLINE, -signal.SIGTERM])
def test_a_process_that_was_stopped_is_replaced_and_counts_as_no_crash(code, crashes):
    decisions = {after(code, crashes, attempt=each) for each in range(1, 200)}

    assert decisions == {Restart(PAUSES.first)}


@pytest.mark.parametrize("code", [ExitCode.CRASHED, -signal.SIGKILL, -signal.SIGSEGV])
def test_pauses_after_crashes_grow_up_to_a_bound(code, crashes):
    pauses = [after(code, crashes, attempt=each).pause for each in range(1, 9)]

    assert pauses == sorted(pauses)
    assert pauses[0] == PAUSES.first
    assert pauses[-1] == LONGEST_PAUSE


def test_unreachable_servers_are_waited_for_without_end(crashes):
    for attempt in range(1, 1000):
        assert isinstance(after(ExitCode.UNREACHABLE, crashes, attempt=attempt), Restart)


def test_a_bad_configuration_ends_the_supervisor():
    decision = after(ExitCode.BAD_CONFIGURATION, Crashes(DELIVERY_LIMIT))

    assert decision == GiveUp(ExitCode.BAD_CONFIGURATION)


def test_a_bad_configuration_does_not_stop_processes_that_work(crashes):
    """A password that was changed on the server alone, for instance, refuses new ones only."""
    decision = after(ExitCode.BAD_CONFIGURATION, crashes, others_ready=True)

    assert decision == Restart(LONGEST_PAUSE)


def test_a_program_that_never_works_is_given_up_soon():
    crashes = Crashes(DELIVERY_LIMIT)
    *early, last = (after(ExitCode.CRASHED, crashes) for _ in range(CRASHES_AT_START))

    assert all(isinstance(each, Restart) for each in early)
    assert last == GiveUp(ExitCode.CRASH_LIMIT)


def test_a_message_that_ends_its_process_is_dead_lettered_before_the_supervisor_gives_up(crashes):
    for number in range(DELIVERY_LIMIT):
        assert isinstance(after(-signal.SIGSEGV, crashes, now=number * 5.0), Restart)


def test_a_process_that_crashes_again_and_again_is_given_up(crashes):
    decisions = [after(-signal.SIGSEGV, crashes, now=number * 7.0) for number in range(60)]

    assert GiveUp(ExitCode.CRASH_LIMIT) in decisions


def test_rare_crashes_never_add_up(crashes):
    decisions = [after(ExitCode.CRASHED, crashes, now=number * 60.0) for number in range(1000)]

    assert all(isinstance(each, Restart) for each in decisions)
