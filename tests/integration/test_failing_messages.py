"""
What is recorded of messages whose handler fails, for each kind of handler.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import Consumer, Message, OnLeaseExpired, RetrySchedule
from consumer.storage.tables import failing_messages, processed_messages
from outbox.tables import dead_letters
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.consumer_deployment import EXCHANGE, broker
from tests.support.eventually import eventually
from tests.support.running_consumer import running

SECOND = timedelta(seconds=1)
HERE = "integration/test_failing_messages.py"


class Ward:
    """A consumer whose handlers fail until they are *repaired*."""

    def __init__(self, *, ordered: bool = False) -> None:
        self.consumer = Consumer("ward", bindings=["#"], ordered=ordered)
        self.repaired = asyncio.Event()
        self.types = ["test.single", "test.hopeless", *([] if ordered else OTHERS)]
        self.consumer.on("test.single")(self.single)
        never: Any = RetrySchedule([SECOND], max_retries=1)
        self.consumer.on("test.hopeless", retry=never)(self.hopeless)
        if not ordered:
            self.consumer.on_batch("test.batch", size=5)(self.batch)
            self.consumer.on_leased(
                "test.leased", lease=timedelta(minutes=1), on_expired=OnLeaseExpired.RETRY
            )(self.leased)

    def fail(self) -> None:
        if not self.repaired.is_set():
            raise KeyError(LEAK_MARKER)

    async def single(self, _message: Message[Any], _session: object) -> None:
        self.fail()

    async def batch(self, _messages: list[Message[Any]], _session: object) -> None:
        self.fail()

    async def leased(self, _message: Message[Any]) -> None:
        self.fail()

    async def hopeless(self, _message: Message[Any], session: Any) -> None:
        await session.execute(sa.text("SELECT nothing"))


OTHERS = ["test.batch", "test.leased"]


async def publish(url: str, *types: str) -> None:
    messages = [
        on_the_wire(
            an_event(type=each, ordering_key=each, idempotency_key=f"{LEAK_MARKER}-{each}"),
            exchange=EXCHANGE,
        )
        for each in types
    ]
    async with broker(url).publisher() as publisher:
        await publisher.publish(messages, within=timedelta(seconds=10))


async def rows(engine: AsyncEngine, table: sa.Table) -> dict[str, Any]:
    async with engine.connect() as connection:
        found = (await connection.execute(sa.select(table))).all()
    assert LEAK_MARKER not in str(found) or table is not failing_messages
    return {row.type: row for row in found}


@pytest.mark.parametrize("ordered", [False, True])
async def test_each_failure_is_recorded_until_the_message_succeeds_or_is_dead_lettered(
    urls, ordered
):
    ward = Ward(ordered=ordered)
    retried = [each for each in ward.types if each != "test.hopeless"]
    async with running(ward.consumer, *urls, retry_delays=(1,), max_retries=99) as engine:
        await publish(urls[1], *ward.types)

        async def all_have_failed_twice() -> dict[str, Any] | None:
            found = await rows(engine, failing_messages)
            is_complete = found.keys() == set(retried)
            return (
                found
                if is_complete and min(each.attempts for each in found.values()) > 1
                else None
            )

        found = await eventually(all_have_failed_twice, within=30)
        assert {
            (row.error_class, row.error_place.partition(":")[0]) for row in found.values()
        } == {("KeyError", f"tests/{HERE}")}
        assert all(row.error_place.endswith(" in fail") for row in found.values())
        assert all(row.first_at < row.last_at < row.due_at for row in found.values())
        ward.repaired.set()

        async def all_are_settled() -> bool:
            completed = await rows(engine, processed_messages)
            states = {each.type: each.status for each in completed.values()}
            return states == {**dict.fromkeys(retried, "completed"), "test.hopeless": "failed"}

        await eventually(all_are_settled, within=30)
        assert await rows(engine, failing_messages) == {}
        [letter] = (await rows(engine, dead_letters)).values()

    assert letter.error_class in {"ProgrammingError 42703", "OperationalError SQLITE_ERROR"}
    assert letter.error_place.startswith(f"tests/{HERE}:")
    assert letter.error_place.endswith(" in hopeless")
    assert letter.attempts == 2
    assert letter.last_at - letter.first_at > SECOND / 2
