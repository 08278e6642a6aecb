"""
When the executor repeats a lost transaction, and when the attempt counts as failed.
"""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from consumer.execution import executor as attempt
from consumer.execution.executor import TRIALS, Executor
from consumer.handler import Handler
from consumer.storage.durations import SAMPLE
from consumer.telemetry import Telemetry
from outbox.errors import DatabaseUnavailable

LOST = DBAPIError(None, None, Exception(), connection_invalidated=True)


class Database:
    """Loses each transaction; replies to *answers* checks, and is unavailable afterwards."""

    def __init__(self, *, answers: int) -> None:
        self.transactions = 0
        self._answers = answers

    async def transact(self, *_: Any, **__: Any) -> DBAPIError:
        self.transactions += 1
        return LOST

    async def ready(self) -> bool:
        self._answers -= 1
        if self._answers < 0:
            raise DatabaseUnavailable("unreachable")
        return True


def an_executor() -> Executor:
    parts: dict[str, Any] = dict.fromkeys(each.name for each in fields(Executor) if each.init)
    telemetry = Telemetry(CollectorRegistry(), source="etl", queue="q", known=())
    return Executor(**{**parts, "jitter": lambda: 0.0, "telemetry": telemetry})


async def carried_out(database: Database, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(attempt, "transact", database.transact)
    monkeypatch.setattr(Executor, "ready", database.ready)
    return await an_executor()._transact(Handler("a"), [])


async def test_an_attempt_that_keeps_losing_its_session_fails_if_the_database_answers(monkeypatch):
    database = Database(answers=TRIALS)

    assert await carried_out(database, monkeypatch) is LOST
    assert database.transactions == TRIALS


@pytest.mark.parametrize("answers", [0, TRIALS - 1])
async def test_an_unavailable_database_counts_as_no_failure_of_a_message(monkeypatch, answers):
    with pytest.raises(DatabaseUnavailable):
        await carried_out(Database(answers=answers), monkeypatch)


def test_an_executor_keeps_a_sample_of_durations_until_it_is_taken():
    executor, handler = an_executor(), Handler("a")

    for number in range(SAMPLE + 50):
        executor.record_success(handler, {str(number): timedelta(seconds=1)})

    assert list(executor.take_durations()) == [str(number) for number in range(SAMPLE)]
    assert executor.take_durations() == {}


def test_an_executor_keeps_no_durations_of_batches():
    executor = an_executor()

    executor.record_success(Handler("a", batch_size=2), {"key": timedelta(seconds=1)})

    assert executor.take_durations() == {}
