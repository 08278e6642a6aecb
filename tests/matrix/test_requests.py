"""
Requests under kills of both sides, in the number that the reliability page reports.
"""

import pytest

from tests.support.calls_under_kills import CallsUnderKills


@pytest.mark.timeout(3600)
async def test_ten_thousand_calls_are_answered_once_or_time_out(
    postgres_url, rabbitmq_url, tmp_path, pytestconfig
):
    kills = pytestconfig.getoption("kills")
    calls = CallsUnderKills(postgres_url, rabbitmq_url, tmp_path, calls=10_000, deadline=600)

    await calls.run(kills=kills, seed=3)

    assert calls.timed_out == []
    assert len(calls.answered) >= 10_000
