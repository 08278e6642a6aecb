"""
The pure decisions of both processes: when to try again, in which order, and what becomes of what.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import verdict as consumer_verdict
from outbox.backoff import Exponential, Levels
from outbox.transports.base import Outcome
from relay.lanes import waves
from relay.pace import Pace
from relay.storage.base import Row
from relay.storage.sql import ready_prefixes
from relay.verdict import Delete, GiveUp, Leave, Retry, decide

SECOND = timedelta(seconds=1)


def a_row(
    row_id: int = 1, key: str | None = None, *, attempts: int = 0, waits: bool = False
) -> Row:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Row(row_id, key, attempts, moment, {"not_before": moment if waits else None})


rows = st.lists(st.sampled_from([None, "a", "b", "c"])).map(
    lambda drawn: [a_row(number, key) for number, key in enumerate(drawn)]
)


def test_exponential_delays_double_up_to_the_cap():
    policy = Exponential(first=SECOND, cap=10 * SECOND)

    delays = [policy.delay(attempt, chance=1.0) for attempt in (1, 2, 3, 4, 5, 1000)]

    assert delays == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 10 * SECOND, 10 * SECOND]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_never_leaves_the_upper_half_of_the_delay(attempt, chance):
    policy = Exponential(first=SECOND, cap=60 * SECOND)
    full = policy.delay(attempt, chance=1.0)

    assert full is not None
    assert full / 2 <= policy.delay(attempt, chance=chance) <= full


def test_exponential_gives_up_when_its_attempts_are_used_up():
    policy = Exponential(max_attempts=2)

    assert policy.delay(1) is not None
    assert policy.delay(2) is None


def test_levels_repeat_the_last_delay_until_the_retries_are_used_up():
    policy = Levels([SECOND, 5 * SECOND], max_retries=3)

    assert [policy.delay(n) for n in (1, 2, 3, 4)] == [SECOND, 5 * SECOND, 5 * SECOND, None]


@given(rows)
def test_waves_hold_every_row_once_and_no_key_twice(drawn):
    result = waves(drawn)

    assert sorted(row.id for wave in result for row in wave) == [row.id for row in drawn]
    for wave in result:
        keys = [row.ordering_key for row in wave if row.ordering_key is not None]
        assert len(keys) == len(set(keys))


@given(rows)
def test_waves_keep_the_order_of_a_key(drawn):
    position = {row.id: number for number, wave in enumerate(waves(drawn)) for row in wave}

    for key in ("a", "b", "c"):
        of_key = [position[row.id] for row in drawn if row.ordering_key == key]
        assert all(before < after for before, after in pairwise(of_key))


def test_a_key_is_claimed_up_to_its_first_row_that_waits():
    of_keys = [a_row(1, "a"), a_row(2, "a"), a_row(3, "a", waits=True), a_row(4, "a")]

    assert [row.id for row in ready_prefixes(of_keys, {"a": 1})] == [1, 2]


def test_a_key_that_no_longer_begins_with_the_claimed_row_is_left_out():
    of_keys = [a_row(1, "a"), a_row(2, "a"), a_row(5, "b")]

    assert [row.id for row in ready_prefixes(of_keys, {"a": 2, "b": 5})] == [5]


def test_a_full_batch_is_followed_at_once_and_an_empty_one_ever_more_rarely():
    pace = Pace(SECOND, 5 * SECOND)

    assert pace.after(10, limit=10, previous=5 * SECOND) == timedelta(0)
    assert pace.after(3, limit=10, previous=5 * SECOND) == SECOND
    assert pace.after(0, limit=10, previous=timedelta(0)) == SECOND
    assert pace.after(0, limit=10, previous=2 * SECOND) == 4 * SECOND
    assert pace.after(0, limit=10, previous=4 * SECOND) == 5 * SECOND


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.ACKED, Delete(a_row())),
        (Outcome.RETURNED, Retry(a_row(), SECOND, "unroutable")),
        (Outcome.NACKED, Retry(a_row(), SECOND, "refused")),
        (Outcome.REJECTED, GiveUp(a_row(), "rejected")),
        (Outcome.MALFORMED, GiveUp(a_row(), "malformed")),
        (Outcome.UNKNOWN, Leave(a_row())),
        (None, Leave(a_row())),
    ],
)
def test_each_outcome_has_its_verdict(outcome, expected):
    assert decide(a_row(), outcome, Exponential(first=SECOND)) == expected


def test_a_row_is_given_up_when_the_policy_says_so():
    row = a_row(attempts=2)

    assert decide(row, Outcome.RETURNED, Exponential(max_attempts=3)) == GiveUp(row, "unroutable")


def test_a_failed_attempt_is_retried_until_the_policy_ends_it():
    policy = Levels([SECOND], max_retries=1)

    assert consumer_verdict.after_failure(1, policy) == consumer_verdict.Retry(1, SECOND)
    assert consumer_verdict.after_failure(2, policy) == consumer_verdict.GiveUp(
        2, "retries_exhausted"
    )
