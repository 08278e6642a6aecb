"""
Partitions that are declared again from time to time.
"""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from consumer.partitions.repair import PartitionRepair
from outbox.errors import BrokerUnavailable, DatabaseUnavailable, TopologyMismatch

FAILURES = [
    None,
    BrokerUnavailable("the connection was lost"),
    DatabaseUnavailable("the database"),
    TopologyMismatch("exchange q.g1 exists with another type"),
    None,
]


async def test_a_repair_that_fails_is_reported_and_followed_by_another():
    stop, failures = asyncio.Event(), list(FAILURES)
    reported: list[str | None] = []

    async def begin(partitions: int) -> None:
        assert partitions == 4
        failure = failures.pop(0)
        if not failures:
            stop.set()
        if failure is not None:
            raise failure

    def background(work: str, error: Any) -> None:
        assert work == "partitions"
        reported.append(error and str(error))

    repair = PartitionRepair(
        SimpleNamespace(begin=begin),
        declared=4,
        telemetry=SimpleNamespace(availability=SimpleNamespace(background=background)),
        every=timedelta(milliseconds=1),
    )
    async with asyncio.timeout(10):
        await repair.run(stop)

    assert reported == [failure and str(failure) for failure in FAILURES]
