"""
When a transaction that nothing was kept of is made again, and when it has failed.
"""

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from consumer.execution import executor as attempt
from consumer.execution.executor import TRIALS, Executor
from consumer.handler import Handler
from outbox.errors import DatabaseUnavailable

LOST = DBAPIError(None, None, Exception(), connection_invalidated=True)


class Database:
    """Loses each transaction; answers a look at it so often, and then is away."""

    def __init__(self, *, answers: int) -> None:
        self.transactions = 0
        self._answers = answers

    async def transact(self, *_: Any, **__: Any) -> DBAPIError:
        self.transactions += 1
        return LOST

    async def ready(self) -> bool:
        self._answers -= 1
        if self._answers < 0:
            raise DatabaseUnavailable("away")
        return True


async def carried_out(database: Database, monkeypatch: pytest.MonkeyPatch) -> object:
    nothing: Any = None
    names = Executor.__dataclass_fields__
    attempts = Executor(**{**dict.fromkeys(names, nothing), "jitter": lambda: 0.0})
    monkeypatch.setattr(attempt, "transact", database.transact)
    monkeypatch.setattr(Executor, "ready", database.ready)
    return await attempts._transact(Handler("a"), [])


async def test_an_attempt_that_keeps_losing_its_session_fails_if_the_database_answers(monkeypatch):
    database = Database(answers=TRIALS)

    assert await carried_out(database, monkeypatch) is LOST
    assert database.transactions == TRIALS


@pytest.mark.parametrize("answers", [0, TRIALS - 1])
async def test_an_unavailable_database_counts_as_no_failure_of_a_message(monkeypatch, answers):
    with pytest.raises(DatabaseUnavailable):
        await carried_out(Database(answers=answers), monkeypatch)
