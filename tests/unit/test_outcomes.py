"""
How dead letters, and effects that should have been rolled back, enter the history.
"""

import pytest

from tests.reliability.consumers import FAILS_ALWAYS, FAILS_ONCE, free, ordered
from tests.reliability.history import Applied, Leftover
from tests.reliability.outcomes import RETRIES_EXHAUSTED, reason_in_history
from tests.reliability.simulation.outcomes import effects_of_failures


def test_an_event_that_always_fails_is_dead_lettered_only_by_the_consumer_that_fails():
    reason = reason_in_history(RETRIES_EXHAUSTED, source=free.name, type_=FAILS_ALWAYS)

    assert reason == RETRIES_EXHAUSTED


@pytest.mark.parametrize(
    ("source", "type_"),
    [(ordered.name, FAILS_ALWAYS), ("relay", FAILS_ALWAYS), (free.name, FAILS_ONCE)],
)
def test_any_other_dead_letter_is_a_finding(source, type_):
    assert reason_in_history(RETRIES_EXHAUSTED, source=source, type_=type_) != RETRIES_EXHAUSTED


def test_effects_of_an_event_that_always_fails_are_found_in_a_simulation():
    history = [Applied(1, "etl", "good"), Applied(2, "etl", "bad")]

    assert effects_of_failures(history, {"bad"}, at=3) == [
        Leftover(3, "effects of attempts that failed", 1)
    ]
    assert effects_of_failures(history, {"other"}, at=3) == []
