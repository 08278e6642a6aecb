"""
Messages whose handler leaves it to the consumer how many of them share a transaction.
"""

from datetime import timedelta
from math import inf
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer import Message
from consumer.batch_sizes import LEAST_MESSAGES, BatchSizes
from consumer.execution import calls, transaction
from consumer.execution import executor as executor_module
from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.execution.executor import Executor
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler
from consumer.storage.dedup import Dedup
from consumer.storage.tables import processed_messages
from consumer.telemetry import Telemetry
from consumer.verdict import DONE, DUPLICATE, WAIT, TryAgain
from outbox.backoff import RetrySchedule
from outbox.tables import dead_letters
from outbox.transports.delivery import Delivery
from tests.support.builders import an_event, on_the_wire

RETRY_DELAY = timedelta(seconds=30)
DEDUP = Dedup("etl")


class DeadlockError(Exception):
    """An error of the driver with its SQLSTATE."""

    sqlstate = "40P01"


async def write(message: Message[Any], session: AsyncSession) -> None:
    """The effect: a row that names the message."""
    values = {"source": "etl", "reason": "effect", "attempts": 1, "body": b""}
    await session.execute(sa.insert(dead_letters).values(message_id=str(message.id), **values))


def a_batch(handler: Handler, count: int = 5) -> DeliveryBatch:
    deliveries = [
        Delivery(on_the_wire(an_event(), exchange="main"), tag, redelivered=False)
        for tag in range(count)
    ]
    queued = [QueuedDelivery(0, each.tag, 0.0, each) for each in deliveries]
    return DeliveryBatch(handler, queued, deliveries)


def an_executor(engine: AsyncEngine, handler: Handler) -> Executor:
    unused: Any = SimpleNamespace()
    return Executor(
        units=UnitOfWorkFactory(engine),
        sessions=async_sessionmaker(engine),
        dedup=DEDUP,
        leased=unused,
        lanes=None,
        policy=RetrySchedule([RETRY_DELAY], max_retries=3),
        retention=timedelta(days=30),
        unsupported_wait=timedelta(0),
        telemetry=Telemetry(CollectorRegistry(), source="etl", queue="q", known=()),
        jitter=lambda: 0.0,
        batch_sizes=BatchSizes({handler.event_type: handler}),
    )


async def ids(engine: AsyncEngine, column: sa.Column[Any]) -> list[str]:
    async with engine.connect() as connection:
        return sorted(str(each) for each in await connection.scalars(sa.select(column)))


async def are_applied(engine: AsyncEngine, batch: DeliveryBatch, positions: list[int]) -> bool:
    """Whether exactly the deliveries at *positions* have one effect each, and are completed."""
    expected = sorted(str(batch.deliveries[each].message.message_id) for each in positions)
    effects = await ids(engine, dead_letters.c.message_id)
    return effects == await ids(engine, processed_messages.c.message_id) == expected


async def test_a_message_that_fails_takes_back_its_own_effects_alone(engine, monkeypatch):
    for module in (executor_module, calls):
        monkeypatch.setattr(module, "LONGEST_CALLS", timedelta(hours=1))
    called = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        await write(message, session)
        called.append(message.id)
        if str(message.id) == batch.deliveries[2].message.message_id:
            raise RuntimeError

    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)
    size = executor.batch_sizes.of(handler)
    assert size is not None

    verdicts = await executor.execute(batch)

    assert verdicts == [DONE, DONE, TryAgain(1, RETRY_DELAY), DONE, DONE]
    assert await are_applied(engine, batch, [0, 1, 3, 4])
    assert len(called) == 3 + 5
    assert size.at(0) == 1


@pytest.mark.parametrize(("longest", "handled"), [(timedelta(0), 0), (timedelta(hours=1), 2)])
async def test_the_neighbours_of_one_that_fails_wait_no_longer_than_a_batch_may_call_handlers(
    engine, monkeypatch, longest, handled
):
    """Those that were not called again are handled as if they had just arrived."""
    calls = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        await write(message, session)
        calls.append(message.id)
        if len(calls) == 1:
            raise RuntimeError
        if len(calls) == handled + 1:
            monkeypatch.setattr(executor_module, "_now", lambda: inf)

    monkeypatch.setattr(executor_module, "LONGEST_CALLS", longest)
    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)

    verdicts = await executor.execute(batch)

    assert verdicts == [DONE] * handled + [WAIT] * (5 - handled)
    assert await are_applied(engine, batch, list(range(handled)))


async def test_no_handler_is_called_after_one_that_has_ended_their_transaction(
    engine, monkeypatch
):
    """It would write into another transaction, which nothing commits or rolls back with this."""
    monkeypatch.setattr(executor_module, "LONGEST_CALLS", timedelta(hours=1))
    calls = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        await write(message, session)
        calls.append(str(message.id))
        if message.id == ids_of_batch[1]:
            await session.rollback()

    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler, 3), an_executor(engine, handler)
    ids_of_batch = [UUID(each.message.message_id) for each in batch.deliveries]

    verdicts = await executor.execute(batch)

    first, second, third = map(str, ids_of_batch)
    assert calls == [first, second, first, second, third]
    assert verdicts == [DONE, TryAgain(1, RETRY_DELAY), DONE]
    assert await are_applied(engine, batch, [0, 2])


async def test_a_handler_that_commits_completes_no_neighbour(engine, monkeypatch):
    monkeypatch.setattr(executor_module, "LONGEST_CALLS", timedelta(0))

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        await write(message, session)
        await session.commit()

    handler = Handler("test.happened", handle, batch_size=None)
    batch = a_batch(handler, 3)

    assert await an_executor(engine, handler).execute(batch) == [WAIT] * 3
    assert await are_applied(engine, batch, [])


async def test_after_a_failure_a_batch_of_a_given_size_is_handled_whole(engine, monkeypatch):
    calls = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        calls.append(message.id)
        if len(calls) == 1:
            raise RuntimeError

    monkeypatch.setattr(executor_module, "LONGEST_CALLS", timedelta(0))
    handler = Handler("test.happened", handle, batch_size=5)

    assert await an_executor(engine, handler).execute(a_batch(handler)) == [DONE] * 5


@pytest.mark.parametrize("size", [1, 5])
async def test_a_handler_that_becomes_slow_leaves_the_rest_of_its_batch_to_later(
    engine, monkeypatch, size
):
    """With *size* messages of the batch left, they are handled as if they had just arrived."""
    monkeypatch.setattr(calls, "LONGEST_CALLS", timedelta(0))
    handler = Handler("test.happened", write, batch_size=None)
    batch, executor = a_batch(handler, size), an_executor(engine, handler)

    first = await executor.execute(batch)
    assert first == [DONE, *[WAIT] * (size - 1)]
    assert await are_applied(engine, batch, [0])

    monkeypatch.setattr(calls, "LONGEST_CALLS", timedelta(hours=1))
    again = await executor.execute(batch)
    assert again == [DUPLICATE, *[DONE] * (size - 1)]
    assert await are_applied(engine, batch, list(range(size)))


async def test_a_batch_of_a_given_size_is_handled_whole(engine, monkeypatch):
    monkeypatch.setattr(calls, "LONGEST_CALLS", timedelta(0))
    handler = Handler("test.happened", write, batch_size=5)

    verdicts = await an_executor(engine, handler).execute(a_batch(handler))

    assert verdicts == [DONE] * 5


async def test_messages_that_others_delay_are_handled_alone_at_once(engine, monkeypatch):
    """As when two batches have locked rows that the other one needs."""
    sizes = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        await write(message, session)

    async def deadlock(units: UnitOfWorkFactory, steps: Any) -> Any:
        sizes.append(len(steps._attempts))
        if len(steps._attempts) > 1:
            return DBAPIError(None, None, DeadlockError(), hide_parameters=True)
        return await transaction.transact(units, steps)

    monkeypatch.setattr(executor_module, "transact", deadlock)
    monkeypatch.setattr(executor_module, "LONGEST_CALLS", timedelta(hours=1))
    handler = Handler("test.happened", handle, batch_size=None)
    batch = a_batch(handler, 3)

    assert await an_executor(engine, handler).execute(batch) == [DONE] * 3
    assert sizes == [3, 1, 1, 1]


async def test_short_calls_let_the_next_messages_share_a_transaction(engine):
    async def handle(_message: Message[Any], _session: AsyncSession) -> None: ...

    handler = Handler("test.happened", handle, batch_size=None)
    executor = an_executor(engine, handler)
    size = executor.batch_sizes.of(handler)
    assert size is not None
    assert size.at(0) == 1

    await executor.execute(a_batch(handler, 1))

    assert size.at(0) == LEAST_MESSAGES
