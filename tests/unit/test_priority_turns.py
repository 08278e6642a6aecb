"""
Which priority a claim begins with, as long as rows of each wait.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from outbox import Priority
from relay.storage.priority_turns import URGENT_FIRST, PriorityTurns

FOR_EVER = 10**9
ROWS = 10
HIGH, NORMAL, LOW = URGENT_FIRST


def claim(turns: PriorityTurns, ready: Mapping[Priority, int], *, limit: int = ROWS) -> Counter:
    """A claim of at most *limit* of the *ready* rows."""
    taken: Counter[Priority] = Counter()
    order = turns.order()
    for each in order:
        taken[each] = min(ready.get(each, 0), limit - taken.total())
    full = taken.total() == limit
    stopped = next((n for n, each in enumerate(order) if taken[each] < ready.get(each, 0)), 3)
    turns.claimed(taken, waiting=order[stopped:] if full else ())
    return taken


def of_many(ready: Mapping[Priority, int], *, claims: int = 160) -> dict[Priority, float]:
    """The part of each priority in many claims; the same rows are ready before each."""
    turns, taken = PriorityTurns(), Counter[Any]()
    for _ in range(claims):
        taken += claim(turns, ready)
    return {each: taken[each] / taken.total() for each in URGENT_FIRST}


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ((FOR_EVER, FOR_EVER, FOR_EVER), (11 / 16, 1 / 4, 1 / 16)),
        ((FOR_EVER, FOR_EVER, 0), (3 / 4, 1 / 4, 0)),
        ((FOR_EVER, 0, FOR_EVER), (15 / 16, 0, 1 / 16)),
        ((0, FOR_EVER, FOR_EVER), (0, 15 / 16, 1 / 16)),
        ((0, 0, FOR_EVER), (0, 0, 1)),
        ((0, FOR_EVER, 0), (0, 1, 0)),
    ],
)
def test_each_priority_gets_its_share_while_rows_of_a_higher_one_never_end(ready, expected):
    assert tuple(of_many(dict(zip(URGENT_FIRST, ready, strict=True))).values()) == pytest.approx(
        expected, abs=0.01
    )


def test_rows_that_get_more_than_their_share_wait_for_no_turn():
    turns, ready = PriorityTurns(), {HIGH: 2, NORMAL: FOR_EVER}

    first = [turns.order()[0] for _ in range(40) if claim(turns, ready)]

    assert NORMAL not in first


def test_a_row_beside_a_full_claim_of_urgent_ones_is_no_share():
    turns, ready = PriorityTurns(), {HIGH: ROWS - 1, NORMAL: FOR_EVER}

    first = [turns.order()[0] for _ in range(40) if claim(turns, ready)]

    assert first.count(NORMAL) >= 5


def test_nothing_is_owed_after_a_claim_that_left_no_row():
    turns = PriorityTurns()
    for _ in range(3):
        claim(turns, {HIGH: FOR_EVER, NORMAL: 1})
    assert turns.order()[0] is NORMAL

    claim(turns, {NORMAL: 1})

    assert turns.order() == URGENT_FIRST
