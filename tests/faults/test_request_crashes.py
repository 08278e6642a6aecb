"""
Callers, relays, responders and the consumer of replies, killed while requests are on their way.

The crash tables are in `outbox/requests/recording.py` and `consumer/replies.py`.
"""

import pytest

from tests.support.calls_under_kills import CallsUnderKills

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


async def test_calls_with_kills_of_both_sides_are_answered_once(
    postgres_url, rabbitmq_url, tmp_path
):
    """It takes a process start for each kill; the matrix makes more calls."""
    calls = CallsUnderKills(postgres_url, rabbitmq_url, tmp_path, calls=300, deadline=120)

    await calls.run(kills=8, seed=1)

    assert calls.timed_out == []
    assert len(calls.answered) >= 300


async def test_calls_that_time_out_are_applied_once_at_most(postgres_url, rabbitmq_url, tmp_path):
    calls = CallsUnderKills(postgres_url, rabbitmq_url, tmp_path, calls=40, deadline=1)

    await calls.run(kills=3, seed=2)

    assert len(calls.answered) + len(calls.timed_out) >= 40
