"""
When a rate limiter allows messages, and how many.
"""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from consumer import RateLimit
from consumer.dispatch.rate_limiter import RateLimiter

NOON = 43_200.0
pauses = st.lists(st.floats(0, 3, allow_nan=False), max_size=200)


def of(messages: int, **per: float) -> RateLimiter:
    return RateLimiter(RateLimit(messages, timedelta(**per) if per else timedelta(seconds=1)))


def greedy(rate: RateLimiter, times: list[float]) -> list[float]:
    """The times of all allowed messages, if as many as possible are taken at each of *times*."""
    taken: list[float] = []
    for now in times:
        count = rate.allowed(now)
        rate.taken(count, now)
        taken += [now] * count
    return taken


def test_after_a_pause_the_whole_rate_is_allowed_at_once_and_no_more():
    rate = of(5)

    assert rate.allowed(NOON) == 5
    rate.taken(5, NOON)

    assert rate.allowed(NOON) == 0
    assert rate.next_at(1) == NOON + 0.2
    assert rate.allowed(NOON + 0.2) == 1


def test_room_for_several_follows_room_for_one():
    rate = of(4)
    rate.taken(4, NOON)

    assert rate.next_at(3) == NOON + 0.75
    assert rate.allowed(NOON + 0.75) == 3
    assert rate.next_at(5) is None


@given(messages=st.integers(1, 50), per=st.floats(0.1, 10), pauses=pauses)
def test_no_period_sees_more_than_the_rate_and_one_burst(messages, per, pauses):
    times = [NOON + sum(pauses[:index]) for index in range(len(pauses))]

    taken = greedy(of(messages, seconds=per), times)

    for start in set(taken):
        assert sum(start <= at < start + per for at in taken) <= 2 * messages


@given(messages=st.integers(1, 1000))
def test_a_caller_that_comes_at_each_named_time_uses_the_whole_rate(messages):
    """For any fractions of the clock, ten periods allow ten times the rate and the first burst."""
    rate, now, taken = of(messages), NOON, 0
    while now < NOON + 10:
        count = rate.allowed(now)
        assert count > 0
        rate.taken(count, now)
        taken += count
        then = rate.next_at(1)
        assert then is not None
        now = max(then, now)

    assert abs(taken - 11 * messages) <= 1
