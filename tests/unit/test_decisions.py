"""
The pure decisions of both processes: retry times, publish order and verdicts.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.backoff import Exponential, RetrySchedule
from outbox.transports.base import Outcome
from relay.batch_size import BatchSize
from relay.poll_interval import ClaimResult, LoadMeter, PollInterval
from relay.row import Row
from relay.settings import RelaySettings
from relay.storage.keyed_scan import KeyHeads, key_heads, ready_prefixes
from relay.storage.low_water_mark import LowWaterMark
from relay.verdict import DeadLetter, Delete, Leave, Retry, decide
from relay.waves import rows_of_a_key, waves

SECOND = timedelta(seconds=1)
NOTIFIED = "armed, and notified during the claim"


def a_row(
    row_id: int = 1,
    key: str | None = None,
    *,
    attempts: int = 0,
    waits: bool = False,
    position: int = 1,
) -> Row:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    values = {"not_before": moment if waits else None, "position": position}
    return Row(row_id, key, attempts, moment, values)


rows = st.lists(st.sampled_from([None, "a", "b", "c"])).map(
    lambda drawn: [a_row(number, key) for number, key in enumerate(drawn)]
)


def test_exponential_delays_double_up_to_the_cap():
    policy = Exponential(first=SECOND, cap=10 * SECOND)

    delays = [policy.delay(attempt, jitter=1.0) for attempt in (1, 2, 3, 4, 5, 1000)]

    assert delays == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 10 * SECOND, 10 * SECOND]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_never_leaves_the_upper_half_of_the_delay(attempt, jitter):
    policy = Exponential(first=SECOND, cap=60 * SECOND)
    full = policy.delay(attempt, jitter=1.0)

    assert full is not None
    assert full / 2 <= policy.delay(attempt, jitter=jitter) <= full


def test_exponential_backoff_ends_when_its_attempts_are_used_up():
    policy = Exponential(max_attempts=2)

    assert policy.delay(1) is not None
    assert policy.delay(2) is None


def test_a_retry_schedule_repeats_its_last_delay_until_the_retries_are_used_up():
    policy = RetrySchedule([SECOND, 5 * SECOND], max_retries=3)

    assert [policy.delay(n) for n in (1, 2, 3, 4)] == [SECOND, 5 * SECOND, 5 * SECOND, None]


@given(rows)
def test_no_wave_holds_a_key_or_a_row_twice(drawn):
    result = waves(drawn)

    ids = [row.id for wave in result for row in wave]
    assert len(ids) == len(set(ids))
    for wave in result:
        keys = [row.ordering_key for row in wave if row.ordering_key is not None]
        assert len(keys) == len(set(keys))


@given(rows)
def test_waves_hold_all_rows_without_a_key_and_of_each_key_the_first_ones_in_order(drawn):
    result = waves(drawn)

    of_key = {
        key: [row for row in drawn if row.ordering_key == key] for key in (None, "a", "b", "c")
    }
    sent = {key: [r for wave in result for r in wave if r.ordering_key == key] for key in of_key}
    assert sent[None] == of_key[None]
    for key, rows in sent.items():
        assert rows == of_key[key][: len(rows)]
        assert rows or not of_key[key]


def test_a_wave_that_is_small_beside_the_first_is_left_for_later():
    crowd = [a_row(number) for number in range(7)]
    key = [a_row(number, "a") for number in range(10, 13)]

    assert len(waves([*crowd, *key])) == 3
    assert len(waves([*crowd, a_row(8), *key])) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["free", "waits", "held"])), max_size=30
    )
)
def test_a_claim_takes_the_rows_of_a_key_before_its_first_obstacle(drawn):
    positions: Counter[str] = Counter()
    rows, expected, blocked = [], [], set()
    for number, (key, state) in enumerate(drawn):
        positions[key] += 1
        if state != "held":
            row = a_row(number, key, position=positions[key], waits=state == "waits")
            rows.append(row)
            if state == "free" and key not in blocked:
                expected.append(row)
        if state != "free":
            blocked.add(key)

    assert ready_prefixes(rows) == expected


@pytest.mark.parametrize(
    ("rows", "more", "woken", "previous", "pause"),
    [
        (10, True, False, 5, 0),
        (10, True, True, 5, 0),
        (0, True, True, 5, 1),
        (3, False, False, 5, 1),
        (3, False, True, 5, 5),
        (3, False, NOTIFIED, 5, 0),
        (0, False, True, 0, 5),
        (0, False, False, 0, 1),
        (0, False, False, 2, 4),
        (0, False, False, 4, 5),
    ],
)
def test_the_relay_polls_at_once_after_a_full_batch_and_less_often_while_the_outbox_is_empty(
    rows, more, woken, previous, pause
):
    poll_interval = PollInterval(SECOND, 5 * SECOND)
    notified = woken is NOTIFIED

    found = poll_interval.after(
        ClaimResult(rows, more), woken=bool(woken), notified=notified, previous=previous * SECOND
    )

    assert found == pause * SECOND


def a_batch_size() -> BatchSize:
    return BatchSize(most_rows=500, most_bytes=4_000, timeout=10 * SECOND)


def test_batches_without_an_answer_halve_down_to_a_row_of_each_kind_and_grow_again():
    size = a_batch_size()
    found = []
    for _ in range(9):
        size.published(rows=100, size=3_000, took=SECOND, unknown=True)
        found.append((size.rows, size.bytes))
    assert found[:3] == [(50, 1_500), (25, 750), (12, 375)]
    assert found[-1] == (2, 5)

    for _ in range(10):
        size.published(rows=2, size=5, took=SECOND, unknown=False)
    assert (size.rows, size.bytes) == (500, 4_000)


def test_batches_that_take_more_than_half_of_their_deadline_become_smaller():
    size = a_batch_size()

    size.published(rows=500, size=4_000, took=6 * SECOND, unknown=False)

    assert (size.rows, size.bytes) == (250, 2_000)


def test_the_deadline_of_a_publish_follows_the_rate_of_the_last_one():
    size = a_batch_size()
    assert size.deadline(1_000_000) == (10 + 20) * SECOND

    size.measured(100, took=9 * SECOND)
    assert size.deadline(1_000_000) == (10 + 20) * SECOND
    size.measured(100_000, took=SECOND)
    assert size.deadline(1_000_000) == (30 + 20) * SECOND

    size.published(rows=1, size=100, took=SECOND, unknown=True)
    assert size.deadline(1_000_000) == (40 + 20) * SECOND
    for _ in range(9):
        size.published(rows=1, size=100, took=SECOND, unknown=True)
    assert size.deadline(1_000_000) == (80 + 20) * SECOND
    size.published(rows=1, size=100, took=SECOND, unknown=False)
    assert size.deadline(0) == 10 * SECOND


@pytest.mark.parametrize("timeout", [1, 10])
@pytest.mark.parametrize("rows", [1, 4])
def test_no_deadline_passes_while_a_slow_network_delivers_large_events(timeout, rows):
    """Neither at first nor after a fast publish: 1 MB for each row, at 60 kB/s."""
    size = BatchSize(most_rows=500, most_bytes=4_000_000, timeout=timeout * SECOND)
    takes = rows * 1_000_000 / 60_000 * SECOND

    assert size.deadline(rows * 1_000_000) > takes
    size.measured(1_000_000, took=SECOND / 100)
    assert size.deadline(rows * 1_000_000) > takes


def test_the_load_is_high_when_many_rows_come_in_a_short_time():
    load = LoadMeter(rows=10, within_seconds=1.0)

    assert not load.is_high(9, now=100.0)
    assert load.is_high(1, now=100.9)
    assert not load.is_high(9, now=102.0)
    assert not load.is_high(9, now=103.1)
    assert load.is_high(10, now=103.2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_begins_after_the_last_one_and_once_a_second_at_the_beginning():
    clock = Clock()
    hint = LowWaterMark(clock)
    assert hint.next_start() == 0

    hint.stopped_at(500, above=0, began=0.0)
    assert hint.next_start() == 500
    clock.now = 0.9
    assert hint.next_start() == 500
    clock.now = 1.0
    assert hint.next_start() == 0


def test_a_full_scan_that_takes_long_is_followed_by_a_longer_time_without():
    clock = Clock()
    hint = LowWaterMark(clock)

    clock.now = 0.2
    hint.stopped_at(500, above=0, began=0.0)

    clock.now = 4.1
    assert (hint.next_start(), hint.may_scan_fully) == (500, False)
    clock.now = 4.2
    assert (hint.next_start(), hint.may_scan_fully) == (0, True)


def test_even_a_very_slow_full_scan_is_repeated():
    clock = Clock()
    hint = LowWaterMark(clock)

    clock.now = 1000.0
    hint.stopped_at(500, above=0, began=0.0)

    clock.now = 1030.0
    assert hint.next_start() == 0


def test_a_fast_full_scan_may_soon_follow_a_poll_that_found_nothing():
    clock = Clock()
    hint = LowWaterMark(clock)
    hint.stopped_at(500, above=0, began=-0.001)

    clock.now = 0.02

    assert (hint.next_start(), hint.may_scan_fully) == (500, True)


def test_after_rows_were_released_a_claim_begins_at_the_beginning():
    hint = LowWaterMark(Clock())
    hint.stopped_at(500, above=0, began=0.0)

    hint.released()

    assert hint.next_start() == 0


def test_rows_that_were_released_during_a_full_scan_cause_another_full_scan():
    clock = Clock()
    hint = LowWaterMark(clock)

    clock.now = 1.0
    hint.released()
    clock.now = 2.0
    hint.stopped_at(500, above=0, began=0.5)

    assert hint.next_start() == 0


def test_a_full_scan_that_finds_late_commits_does_not_move_the_low_water_mark_back():
    hint = LowWaterMark(Clock())
    hint.stopped_at(500, above=0, began=0.0)

    hint.exhausted(above=0, last=3, began=0.0)
    assert hint.next_start() == 500

    hint.stopped_at(3, above=0, began=0.0)
    assert hint.next_start() == 3


def test_a_poll_that_began_beyond_the_low_water_mark_does_not_move_it():
    hint = LowWaterMark(Clock())
    hint.stopped_at(500, above=0, began=0.0)

    hint.stopped_at(20_010, above=20_000, began=0.0)
    hint.exhausted(above=20_000, last=20_010, began=0.0)

    assert hint.next_start() == 500


def test_a_claim_reads_no_more_rows_of_a_key_than_can_be_published():
    assert rows_of_a_key(1, limit=500, beside=0) == 16
    assert rows_of_a_key(100, limit=500, beside=0) == 5
    assert rows_of_a_key(400, limit=500, beside=100) == 1
    assert rows_of_a_key(1, limit=500, beside=7) == 16
    assert rows_of_a_key(1, limit=500, beside=8) == 1


def test_a_skip_scan_that_was_cut_short_continues_after_its_last_key():
    visited = [("a", 1, True), ("b", 2, False), ("c", 3, True), ("d", 4, True)]

    assert key_heads(visited, limit=9) == KeyHeads({"a": 1, "c": 3, "d": 4}, None)
    assert key_heads(visited, limit=4) == KeyHeads({"a": 1, "c": 3, "d": 4}, "d")
    assert key_heads([], limit=9) == KeyHeads({}, None)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.ACKED, Delete(a_row())),
        (Outcome.RETURNED, Retry(a_row(), SECOND, "unroutable")),
        (Outcome.NACKED, Retry(a_row(), SECOND, "refused")),
        (Outcome.REJECTED, DeadLetter(a_row(), "rejected")),
        (Outcome.MALFORMED, DeadLetter(a_row(), "malformed")),
        (Outcome.UNKNOWN, Leave(a_row())),
    ],
)
def test_each_outcome_has_its_verdict(outcome, expected):
    assert decide(a_row(), outcome, Exponential(first=SECOND)) == expected


def test_copies_of_an_event_that_one_queue_refuses_are_few(clean_environment):
    policy = RelaySettings().refused_policy
    row, seconds, publishes = a_row(), 0.0, []
    while seconds < 86_400:
        publishes.append(seconds)
        verdict = decide(row, Outcome.NACKED, Exponential(), refused=policy, jitter=0)
        assert isinstance(verdict, Retry)
        row, seconds = a_row(attempts=row.attempts + 1), seconds + verdict.delay.total_seconds()

    assert len([at for at in publishes if at < 60]) == 5
    later = [at for at in publishes if at > 60]
    assert all(b - a >= 150 for a, b in pairwise(later))
    assert decide(a_row(), Outcome.RETURNED, Exponential(first=SECOND), refused=policy) == Retry(
        a_row(), SECOND, "unroutable"
    )


def test_a_row_is_dead_lettered_when_the_policy_says_so():
    row = a_row(attempts=2)

    assert decide(row, Outcome.RETURNED, Exponential(max_attempts=3)) == DeadLetter(
        row, "unroutable"
    )
