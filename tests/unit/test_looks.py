"""
When an armed relay looks for rows of which nothing has notified it.
"""

import pytest

from relay.wakeup import Looks, Polling


class FakeClock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Armed(Polling):
    """A wake-up whose looks take some *seconds*."""

    armed = True

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.looks, self.missed = 0, False

    async def has_missed(self) -> bool:
        self.looks += 1
        self.clock.now += self.seconds
        return self.missed


@pytest.mark.parametrize(("seconds", "rest"), [(0.002, 0.098), (0.5, 10.0), (9.0, 30.0)])
async def test_looks_take_at_most_a_twentieth_of_the_time(seconds, rest):
    clock = FakeClock()
    wakeup = Armed(clock, seconds)
    looks = Looks(wakeup, clock=clock)

    assert looks.due_in().total_seconds() == 0
    assert await looks.find_nothing()
    assert looks.due_in().total_seconds() == pytest.approx(rest)
    assert await looks.find_nothing()
    assert wakeup.looks == 1

    clock.now += rest
    wakeup.missed = True
    assert not await looks.find_nothing()
    assert wakeup.looks == 2


async def test_a_relay_that_is_not_armed_has_to_claim():
    assert not await Looks(Polling(), clock=FakeClock()).find_nothing()
