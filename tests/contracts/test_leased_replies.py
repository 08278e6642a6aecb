"""
Replies of leased handlers, in both databases: the handler is never called again because of them.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.execution import answers
from consumer.execution.decode import Attempt, decode_delivery
from consumer.execution.leased import Leased
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler, Lease, OnLeaseExpired
from consumer.message import Message
from consumer.storage.leases import Leases
from consumer.storage.outgoing_replies import OutgoingReply
from consumer.verdict import DONE, DUPLICATE
from outbox.errors import InvalidEvent, KeysUnavailable
from outbox.tables import outbox as table
from outbox.transports.delivery import Delivery
from tests.support.builders import an_event, on_the_wire

REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ],
    "postgresql": ["ALTER TABLE outbox ADD CONSTRAINT refuse CHECK (type = 'none')"],
}


@pytest.fixture
def leased(engine: AsyncEngine) -> Leased:
    return Leased(UnitOfWorkFactory(engine), Leases("mail"))


class Calls:
    """A leased handler that counts its calls and returns *result*."""

    def __init__(self, result: object) -> None:
        self.result = result
        self.count = 0
        self.failures: list[BaseException] = []
        self.handler = Handler(
            "test.happened",
            function=self._called,
            lease=Lease(timedelta(seconds=1), OnLeaseExpired.RETRY),
        )
        message = on_the_wire(an_event(), exchange="main", reply_to="caller.replies")
        oldest = datetime.min.replace(tzinfo=UTC)
        found = decode_delivery(
            Delivery(message, 1, redelivered=False),
            self.handler,
            now=datetime.now(UTC),
            oldest=oldest,
        )
        assert isinstance(found, Attempt)
        self.attempt = found

    async def _called(self, _message: Message[Any]) -> object:
        self.count += 1
        return self.result

    def _failed(self, _handler: object, _delivery: object, error: BaseException, _: object) -> Any:
        self.failures.append(error)
        return "failed"

    async def execute(self, leased: Leased) -> object:
        return await leased.execute(
            self.handler,
            self.attempt,
            owner=uuid4(),
            telemetry=Mock(),
            after_failure=self._failed,
        )


async def recorded(leased: Leased) -> list[sa.Row]:
    async with leased.units.begin() as work:
        return list(await work.session.execute(sa.select(table.c.routing_key, table.c.body)))


async def test_a_leased_handler_waits_for_the_keys_of_its_reply(leased, monkeypatch):
    encrypted, tries = OutgoingReply.row, []

    def row(reply: OutgoingReply) -> dict[str, Any]:
        tries.append(reply)
        if len(tries) < 3:
            raise KeysUnavailable("the key database cannot be reached")
        return encrypted(reply)

    monkeypatch.setattr(OutgoingReply, "row", row)
    monkeypatch.setattr(answers, "_RETRY_EVERY", timedelta(milliseconds=1))
    calls = Calls({"total": 6})

    assert await calls.execute(leased) is DONE

    assert (calls.count, len(tries)) == (1, 3)
    assert await recorded(leased) == [("caller.replies", b'{"total":6}')]


async def test_a_reply_that_cannot_be_recorded_is_a_failed_attempt(leased, monkeypatch):
    refusal = InvalidEvent("payload", "must be encrypted")
    monkeypatch.setattr(OutgoingReply, "row", Mock(side_effect=refusal))
    calls = Calls({"total": 6})

    assert await calls.execute(leased) == "failed"

    assert calls.failures == [refusal]
    assert await recorded(leased) == []


async def test_a_reply_that_the_database_refuses_does_not_undo_the_completion(engine, leased):
    async with engine.begin() as connection:
        for statement in REFUSE[engine.dialect.name]:
            await connection.execute(sa.text(statement))
    calls = Calls({"total": 6})

    assert await calls.execute(leased) is DONE
    assert await calls.execute(leased) is DUPLICATE

    assert calls.count == 1
    assert await recorded(leased) == []
