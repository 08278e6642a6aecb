"""
When the executor repeats a lost transaction, and when the attempt counts as failed.
"""

from dataclasses import fields
from datetime import timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from consumer.execution import executor as attempt
from consumer.execution.decode import Attempt
from consumer.execution.executor import BEHIND_A_COPY, TRIALS, Executor
from consumer.execution.transaction import Committed, HandlerSteps
from consumer.handler import Handler
from consumer.storage.durations import SAMPLE
from consumer.telemetry import Telemetry
from consumer.verdict import Wait
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


class Sqlstate(Exception):  # noqa: N818
    """An error of a driver."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize("was_called", [False, True])
async def test_a_message_whose_copy_is_handled_elsewhere_waits_and_has_not_failed(
    monkeypatch, was_called
):
    """Its record is locked while the other handler works; other locks are the handler's own."""
    error = DBAPIError(None, None, Sqlstate("55P03"))

    async def transact(_units: Any, steps: HandlerSteps) -> DBAPIError:
        steps.was_called = was_called
        return error

    monkeypatch.setattr(attempt, "transact", transact)
    monkeypatch.setattr(Executor, "ready", Database(answers=TRIALS).ready)
    outcome = await an_executor()._transact(Handler("a"), [cast("Attempt", None)])

    if was_called:
        assert outcome is error
    else:
        assert isinstance(outcome, Committed)
        assert list(outcome.verdicts) == [Wait(BEHIND_A_COPY)]


def test_an_executor_keeps_a_sample_of_durations_until_it_is_taken():
    executor, handler = an_executor(), Handler("a")

    for number in range(SAMPLE + 50):
        executor.record_success(handler, {str(number): timedelta(seconds=1)}, {str(number): "a"})

    assert list(executor.take_durations()) == [str(number) for number in range(SAMPLE)]
    assert executor.take_durations() == {}


def test_an_executor_keeps_no_durations_of_batches():
    executor = an_executor()

    durations = {"key": timedelta(seconds=1)}
    executor.record_success(Handler("a", batch_size=2), durations, {"key": "a"})

    assert executor.take_durations() == {}
