"""
The verdict on a message after an attempt, and the time of its retry.
"""

from datetime import timedelta

import pytest

from consumer import Reject, Retry, RetrySchedule, verdict

SECOND = timedelta(seconds=1)


def test_a_failed_attempt_is_retried_until_the_policy_ends_it():
    policy, error = RetrySchedule([SECOND], max_retries=1), RuntimeError()

    def after(attempt: int) -> verdict.Verdict:
        return verdict.after_failure(error, attempt, policy, jitter=0.0)

    assert after(1) == verdict.TryAgain(1, SECOND)
    assert after(2) == verdict.DeadLetter(2, "retries_exhausted")


def test_a_handler_may_ask_for_another_delay_and_not_for_more_attempts():
    policy, hour = RetrySchedule([SECOND], max_retries=1), timedelta(hours=1)

    def after(attempt: int, error: Exception) -> verdict.Verdict:
        return verdict.after_failure(error, attempt, policy, jitter=0.0)

    assert after(1, Retry(after=hour)) == verdict.TryAgain(1, hour)
    assert after(1, Retry()) == verdict.TryAgain(1, SECOND)
    assert after(2, Retry(after=hour)) == verdict.DeadLetter(2, "retries_exhausted")


def test_a_rejected_message_is_dead_lettered_at_once_for_the_handlers_reason():
    rejected = verdict.after_failure(
        Reject("unknown_device"), 1, RetrySchedule([SECOND], max_retries=9), jitter=0.0
    )

    assert rejected == verdict.DeadLetter(1, "unknown_device")
    assert not verdict.is_failure(rejected)


@pytest.mark.parametrize("reason", ["", "Name of a patient", "a" * 65, "7", "a-b"])
def test_a_reason_is_a_code_and_not_a_text(reason):
    with pytest.raises(ValueError, match="reason: must be lower-case words"):
        Reject(reason)


@pytest.mark.parametrize("after", [timedelta(0), timedelta(days=31)])
def test_a_delay_has_bounds(after):
    with pytest.raises(ValueError, match="after: must be"):
        Retry(after=after)


@pytest.mark.parametrize(("wanted", "level"), [(0.5, 1), (1, 1), (2, 5), (5, 5), (60, 5)], ids=str)
def test_a_message_waits_in_the_retry_queue_with_the_shortest_sufficient_delay(wanted, level):
    levels = [timedelta(seconds=1), timedelta(seconds=5)]

    chosen = verdict.retry_queue_delay(timedelta(seconds=wanted), levels)

    assert chosen == timedelta(seconds=level)


@pytest.mark.parametrize("delays", [[30, 60], [], [SECOND, timedelta(0)]], ids=str)
def test_delays_that_cannot_work_are_refused(delays):
    with pytest.raises(ValueError, match=r"^delays: "):
        RetrySchedule(delays, max_retries=1)


def test_exponential_delays_grow_to_the_cap_and_need_few_queues():
    levels = RetrySchedule.exponential(SECOND, timedelta(seconds=5), max_retries=5)

    assert [delay.total_seconds() for delay in levels.delays] == [1, 2, 4, 5]
    assert levels.longest == timedelta(seconds=1 + 2 + 4 + 5 + 5)
    with pytest.raises(ValueError, match="delays"):
        RetrySchedule.exponential(timedelta(milliseconds=1), timedelta(days=1), max_retries=1)


def test_with_jitter_half_of_the_attempts_wait_for_the_next_longer_delay():
    levels = RetrySchedule([SECOND, 2 * SECOND], max_retries=9, jitter=True)

    assert levels.delay(1, jitter=0.49) == SECOND
    assert levels.delay(1, jitter=0.5) == 2 * SECOND
    assert levels.delay(9, jitter=0.9) == 2 * SECOND


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"delays": []}, "delays"), ({"delays": [-SECOND]}, "delays"), ({"max_retries": -1}, "max")],
)
def test_a_retry_schedule_that_cannot_work_is_refused(changes, field):
    with pytest.raises(ValueError, match=field):
        RetrySchedule(**{"delays": [SECOND], "max_retries": 1, **changes})
