"""
How long work is repeated while the database is unavailable, and when it counts as available.
"""

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from consumer.database_retry import DatabaseRetry
from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health

MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def retry(health: Health) -> DatabaseRetry:
    return DatabaseRetry(
        reconnect=Exponential(first=MILLISECOND, cap=MILLISECOND),
        telemetry=Telemetry(CollectorRegistry(), source="etl", queue="q", known=()),
        health=health,
        jitter=lambda: 0.0,
    )


class Work:
    """Takes *seconds*, and fails so many times."""

    def __init__(self, *, failures: int, seconds: float = 0.0) -> None:
        self.calls = 0
        self._failures = failures
        self._seconds = seconds

    async def __call__(self) -> str:
        self.calls += 1
        await asyncio.sleep(self._seconds)
        if self.calls <= self._failures:
            raise DatabaseUnavailable("gone")
        return "done"


async def test_work_is_repeated_until_the_database_answers(retry, health):
    work = Work(failures=3)

    assert await retry.run(work, asyncio.Event()) == "done"

    assert work.calls == 4
    assert (retry.is_unavailable, health.missing) == (False, [])


async def test_the_time_of_the_first_call_counts_towards_the_longest(retry, health):
    """A handler that works for long is not called again after its deliveries are overdue."""
    work = Work(failures=1, seconds=0.05)

    assert await retry.run(work, asyncio.Event(), longest=timedelta(seconds=0.04)) is None

    assert work.calls == 1
    assert (retry.is_unavailable, health.missing) == (True, ["database"])


async def test_other_work_that_succeeds_makes_the_process_ready(retry, health):
    stopped = asyncio.Event()
    stopped.set()
    assert await retry.run(Work(failures=9), stopped) is None
    assert health.missing == ["database"]

    await retry.run(Work(failures=0), stopped)

    assert health.missing == []
