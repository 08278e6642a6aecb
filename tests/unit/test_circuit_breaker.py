"""
When a circuit breaker lets a handler be called.
"""

from datetime import timedelta

import pytest

from consumer import CircuitBreaker
from consumer.dispatch.circuit_breaker import Breaker

NOON, PAUSE = 43_200.0, 30.0
LATER = NOON + PAUSE


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(CircuitBreaker(failures=2, pause=timedelta(seconds=PAUSE)))


@pytest.fixture
def open_breaker(breaker) -> Breaker:
    for _ in range(2):
        breaker.called()
        breaker.failed(NOON)
    return breaker


def test_consecutive_failures_open_the_breaker_and_others_do_not(breaker):
    for fail in (True, False, True):
        assert breaker.is_closed
        breaker.called()
        if fail:
            breaker.failed(NOON)
        else:
            breaker.succeeded()

    assert breaker.is_closed
    breaker.failed(NOON)
    assert not breaker.is_closed


def test_a_call_that_was_not_made_does_not_count_as_a_success(breaker):
    breaker.failed(NOON)
    breaker.skipped()
    breaker.failed(NOON)

    assert not breaker.is_closed


def test_an_open_breaker_allows_no_call_until_its_pause_is_over(open_breaker):
    assert not open_breaker.allows(NOON)
    assert not open_breaker.allows(LATER - 0.001)
    assert open_breaker.allows_at == LATER
    assert open_breaker.allows(LATER)


def test_after_the_pause_the_breaker_allows_one_attempt_at_a_time(open_breaker):
    open_breaker.called()

    assert not open_breaker.allows(LATER)
    assert open_breaker.is_probing
    assert open_breaker.allows_at is None


def test_an_attempt_that_succeeds_closes_the_breaker_and_resets_its_count(open_breaker):
    open_breaker.called()
    open_breaker.succeeded()

    assert open_breaker.is_closed
    open_breaker.failed(LATER)
    assert open_breaker.is_closed


def test_an_attempt_that_fails_opens_the_breaker_for_another_pause(open_breaker):
    open_breaker.called()
    open_breaker.failed(LATER)

    assert not open_breaker.allows(LATER)
    assert open_breaker.allows(LATER + PAUSE)


def test_an_attempt_that_was_not_made_leaves_room_for_the_next(open_breaker):
    open_breaker.called()
    open_breaker.skipped()

    assert not open_breaker.is_closed
    assert open_breaker.allows(LATER)


def test_calls_that_began_before_the_breaker_opened_do_not_count(open_breaker):
    open_breaker.succeeded()
    assert not open_breaker.is_closed

    open_breaker.failed(LATER - 1)
    assert open_breaker.allows_at == LATER
