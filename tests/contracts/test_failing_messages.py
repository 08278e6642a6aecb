"""
The rows of messages that have failed and wait for their next attempt, on both databases.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer.dispatch.failure_recorder import FailureRecorder
from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.execution.executor import Executor
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler
from consumer.maintenance.failing_sampler import FailingSampler
from consumer.maintenance.retention import Retention
from consumer.storage import failing as failing_module
from consumer.storage import failing_reads
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.dedup import Dedup
from consumer.storage.failing import FailedAttempt, FailingMessages
from consumer.storage.tables import ago, failing_messages
from consumer.telemetry import Telemetry
from consumer.verdict import DONE, DUPLICATE, Verdict
from outbox.backoff import RetrySchedule
from outbox.runtime.error_summary import ErrorSummary
from outbox.tables import dead_letters
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage
from outbox.wire.headers import ATTEMPT_HEADER
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.query_plans import recorded

MINUTE, MONTH = timedelta(minutes=1), timedelta(days=30)
KEY_ERROR = ErrorSummary("KeyError", "myapp/etl.py:42 in load")
OS_ERROR = ErrorSummary("OSError", "myapp/etl.py:50 in save")


@pytest.fixture
def failing() -> FailingMessages:
    return FailingMessages("etl")


def a_message(**changes: Any) -> WireMessage:
    return on_the_wire(an_event(**changes), exchange="main")


def failed(
    message: WireMessage, attempt: int = 1, *, wait: timedelta = MINUTE, error: Any = KEY_ERROR
) -> FailedAttempt:
    return FailedAttempt(message, attempt, wait, error)


async def rows(engine: AsyncEngine) -> Sequence[Any]:
    async with engine.connect() as connection:
        found = await connection.execute(
            sa.select(failing_messages).order_by(failing_messages.c.message_id)
        )
        return found.all()


async def test_a_message_has_one_row_with_its_first_time_and_its_last_error(failing, engine):
    message = a_message(idempotency_key=LEAK_MARKER)
    await failing.record_at_once(engine, [failed(message), failed(message, 2)])
    [first] = await rows(engine)
    await failing.record_at_once(engine, [failed(message, 3, error=OS_ERROR)])
    await FailingMessages("other").record_at_once(engine, [failed(message)])

    last, other = sorted(await rows(engine), key=lambda row: row.consumer)
    assert first.attempts == 2
    assert (other.consumer, other.attempts) == ("other", 1)
    assert (last.attempts, last.error_class, last.error_place) == (
        3,
        OS_ERROR.error_class,
        OS_ERROR.place,
    )
    assert (last.type, last.message_id) == (message.type, message.message_id)
    assert first.first_at == last.first_at < last.last_at < last.due_at
    assert last.due_at - last.last_at > timedelta(seconds=59)
    assert LEAK_MARKER not in str(last)


async def test_ids_of_other_programs_are_stored_as_the_log_has_them(failing, engine):
    foreign = replace(a_message(), message_id="jane@example.org", headers={})
    unidentified = replace(a_message(), message_id=None, headers={})

    await failing.record_at_once(engine, [failed(foreign), failed(unidentified)])

    [row] = await rows(engine)
    assert row.message_id.startswith("digest:")


async def test_the_row_is_deleted_by_key_in_the_transaction_of_the_message(failing, engine):
    one, two = a_message(idempotency_key="one"), a_message(idempotency_key="two")
    await failing.record_at_once(engine, [failed(one), failed(two)])

    async with AsyncSession(engine) as session:
        assert await failing.forget(session, ["one"])
        await session.rollback()
    assert len(await rows(engine)) == 2
    async with AsyncSession(engine) as session:
        assert await failing.forget(session, ["one"])
        assert not await failing.forget(session, ["three"])
        await session.commit()
    assert [row.message_id for row in await rows(engine)] == [two.message_id]


async def test_the_rows_are_grouped_listed_and_counted(failing, engine):
    await failing.record_at_once(
        engine,
        [
            failed(a_message()),
            failed(a_message(), wait=timedelta(hours=1)),
            failed(a_message(), error=OS_ERROR, wait=timedelta(0)),
            failed(a_message(type="test.other")),
        ],
    )
    telemetry = a_telemetry()
    await FailingSampler(engine, "etl", telemetry).sample()

    async with engine.connect() as connection:
        groups = await failing_reads.groups(connection, "etl")
        listed = await failing_reads.listed(connection, "etl", limit=3)
        assert await failing_reads.groups(connection, "other") == []

    assert [(each.type, each.error_class, each.error_place, each.messages) for each in groups] == [
        ("test.happened", "KeyError", KEY_ERROR.place, 2),
        ("test.happened", "OSError", OS_ERROR.place, 1),
        ("test.other", "KeyError", KEY_ERROR.place, 1),
    ]
    assert groups[0].next_due is not None
    assert timedelta(seconds=30) < groups[0].next_due <= MINUTE
    assert groups[1].next_due is None
    assert all(each.last_failure <= each.first_failure < MINUTE for each in groups)
    assert len(listed) == 3
    assert {each.attempts for each in listed} == {1}
    assert [
        telemetry._registry.get_sample_value("mq_messages_failing", {"type": label})
        for label in ("test.happened", "other")
    ] == [3, 1]


async def test_rows_of_messages_that_never_came_again_are_purged_with_the_retention(
    failing, engine
):
    old, late, young = a_message(), a_message(), a_message()
    await failing.record_at_once(
        engine, [failed(old), failed(late, wait=timedelta(days=60)), failed(young)]
    )
    async with engine.begin() as connection:
        past = {"last_at": ago(timedelta(days=40)), "due_at": ago(timedelta(days=39))}
        is_old = failing_messages.c.message_id == old.message_id
        is_late = failing_messages.c.message_id == late.message_id
        await connection.execute(sa.update(failing_messages).where(is_old).values(past))
        del past["due_at"]
        await connection.execute(sa.update(failing_messages).where(is_late).values(past))

    await Retention(engine, "etl", older_than=MONTH, horizon=MONTH).batch()

    left = {row.message_id for row in await rows(engine)}
    assert left == {late.message_id, young.message_id}


async def dead(engine: AsyncEngine) -> Any:
    async with engine.connect() as connection:
        return (await connection.execute(sa.select(dead_letters))).one()


@pytest.mark.parametrize(("summary", "kept"), [(OS_ERROR, OS_ERROR), (None, KEY_ERROR)])
async def test_a_dead_letter_has_the_time_of_the_first_error_and_the_last_one_that_is_known(
    failing, engine, summary, kept
):
    """A message that the broker dead-letters, by its age or its deliveries, has failed before."""
    message = a_message()
    await failing.record_at_once(engine, [failed(message)])
    [recorded_row] = await rows(engine)
    writer = DeadLetterWriter("etl", "q", async_sessionmaker(engine), Dedup("etl"))

    assert await writer.write(message, reason="expired", attempts=2, summary=summary)

    letter = await dead(engine)
    assert (letter.error_class, letter.error_place) == (kept.error_class, kept.place)
    assert letter.first_at == recorded_row.first_at < letter.last_at
    assert await rows(engine) == []


async def test_a_dead_letter_without_an_error_has_none(engine):
    writer = DeadLetterWriter("etl", "q", async_sessionmaker(engine), Dedup("etl"))

    await writer.write(a_message(), reason="expired", attempts=0)

    letter = await dead(engine)
    assert (letter.error_class, letter.error_place) == (None, None)


def a_telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry(), source="etl", queue="q", known=["test.happened"])


def an_executor(engine: AsyncEngine) -> Executor:
    unused: Any = SimpleNamespace()
    return Executor(
        units=UnitOfWorkFactory(engine),
        sessions=async_sessionmaker(engine),
        dedup=Dedup("etl"),
        leased=unused,
        lanes=None,
        policy=RetrySchedule([MINUTE], max_retries=3),
        retention=MONTH,
        unsupported_wait=timedelta(0),
        telemetry=a_telemetry(),
        jitter=lambda: 0.0,
    )


async def executed(engine: AsyncEngine, *deliveries: Delivery) -> list[Verdict]:
    async def handle(_message: object, _session: object) -> None: ...

    handler = Handler("test.happened", handle, batch_size=10)
    queued = [QueuedDelivery(0, each.tag, 0.0, each) for each in deliveries]
    return await an_executor(engine).execute(DeliveryBatch(handler, queued, list(deliveries)))


async def test_a_message_that_succeeds_at_once_costs_no_statement_and_one_that_failed_costs_one(
    failing, engine
):
    def of_table(statements: list[Any]) -> list[str]:
        return [text for text, _ in statements if "failing_messages" in text]

    retried = [a_message() for _ in range(3)]
    await failing.record_at_once(engine, [failed(each) for each in retried])
    copies = [replace(each, headers={**each.headers, ATTEMPT_HEADER: 1}) for each in retried]
    fresh = [Delivery(a_message(), tag, redelivered=False) for tag in range(3)]
    with recorded(engine) as statements:
        assert await executed(engine, *fresh) == [DONE] * 3
    assert of_table(statements) == []

    with recorded(engine) as statements:
        again = [Delivery(each, tag, redelivered=False) for tag, each in enumerate(copies)]
        assert await executed(engine, *again) == [DONE] * 3
    assert len(of_table(statements)) == 1
    assert await rows(engine) == []


async def test_a_duplicate_of_a_message_that_failed_leaves_no_row(failing, engine):
    """The ack of the first delivery was lost, so its redelivery succeeded before the copy came."""
    message = a_message()
    copy = replace(message, headers={**message.headers, ATTEMPT_HEADER: 1})
    assert await executed(engine, Delivery(message, 1, redelivered=False)) == [DONE]
    await failing.record_at_once(engine, [failed(message)])

    assert await executed(engine, Delivery(copy, 2, redelivered=False)) == [DUPLICATE]

    assert await rows(engine) == []


@pytest.fixture
async def locked(engine: AsyncEngine) -> AsyncIterator[None]:
    """Another session has locked the table; SQLite has one lock for all."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.exec_driver_sql("LOCK TABLE failing_messages")
        yield
        await connection.rollback()


async def test_a_message_waits_for_its_row_no_longer_than_a_moment_and_the_next_ones_not_at_all(
    failing, engine, locked, monkeypatch
):
    del locked
    monkeypatch.setattr(failing_module, "RECORDED_WITHIN", timedelta(seconds=0.1))
    database_retry: Any = SimpleNamespace(is_unavailable=False)
    recorder = FailureRecorder(engine, failing, database_retry, a_telemetry())
    clock = asyncio.get_running_loop().time
    began = clock()

    await recorder.record([failed(a_message())])
    first, began = clock() - began, clock()
    with recorded(engine) as statements:
        await recorder.record([failed(a_message())])

    assert first < 5
    assert clock() - began < 0.1
    assert statements == []


async def test_no_failure_is_recorded_while_the_database_is_unavailable(failing, engine):
    database_retry: Any = SimpleNamespace(is_unavailable=True)
    recorder = FailureRecorder(engine, failing, database_retry, a_telemetry())

    await recorder.record([failed(a_message())])

    assert await rows(engine) == []
