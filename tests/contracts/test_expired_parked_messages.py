"""
Parked messages that are older than the retention of their bodies, in both databases.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer import Consumer, Message
from consumer.assembly import assemble
from consumer.dispatch.parked_worker import ParkedWorker
from consumer.execution.transaction import transact
from consumer.settings import ConsumerSettings
from consumer.storage.parked import ParkedMessages
from consumer.storage.tables import begun_deliveries, parked_messages, processed_messages
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.database_time import now_plus
from outbox.runtime.probes import Health
from outbox.tables import dead_letters
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.eventually import eventually

DAY = timedelta(days=1)


class Scene:
    """A process of an ordered consumer that parks messages for a day, and one without a limit."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sessions = async_sessionmaker(engine)
        self.called: list[str] = []
        self.holds, self.fails = asyncio.Event(), False
        self.holds.set()
        self.expiring = self.a_process(parked_body_retention_days=1)
        self.patient = self.a_process()

    def a_process(self, **settings: Any) -> ParkedWorker:
        consumer = Consumer("etl", bindings=["#"], ordered=True)

        @consumer.on("test.happened")
        async def handle(message: Message[dict], _session: AsyncSession) -> None:
            self.called.append(str(message.id))
            await self.holds.wait()
            if self.fails:
                raise RuntimeError

        worker = assemble(
            consumer,
            ConsumerSettings(_env_file=None, retry_delays=(3600,), **settings),
            self.engine,
            telemetry=Telemetry(CollectorRegistry(), source="etl", queue="q", known=()),
            health=Health(),
        ).parked_worker
        assert worker is not None
        return worker

    async def park(self, lane: str, *, age: timedelta, wait: timedelta = timedelta(0)) -> str:
        """Park a message that is *age* old and due after *wait*; returns its id."""
        event = an_event(ordering_key=lane, payload={"note": LEAK_MARKER})
        message = on_the_wire(event, exchange="main")
        async with self.sessions.begin() as session:
            await ParkedMessages("etl").park(session, message, lane=lane, attempts=1, wait=wait)
            newest = sa.select(sa.func.max(parked_messages.c.id)).scalar_subquery()
            parked_at = now_plus(sa.literal(-age.total_seconds()))
            await session.execute(
                sa.update(parked_messages)
                .where(parked_messages.c.id == newest)
                .values(parked_at=parked_at)
            )
        return str(event.id)

    async def rows(self, table: sa.Table) -> list[Any]:
        async with self.engine.connect() as connection:
            return list(await connection.execute(sa.select(table).order_by(*table.primary_key)))

    async def status(self) -> dict[str, str]:
        """The status of each message in the dedup store."""
        return {row.idempotency_key: row.status for row in await self.rows(processed_messages)}

    async def work(self) -> None:
        await self.expiring.strikes.hasten_expired()
        while await self.expiring.attempt_next():
            pass


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
def scene(engine: AsyncEngine) -> Scene:
    return Scene(engine)


async def test_expired_messages_end_in_the_order_of_their_lane_which_then_goes_on(scene):
    first = await scene.park("lane", age=2 * DAY, wait=DAY)
    second = await scene.park("lane", age=2 * DAY)
    young = await scene.park("lane", age=DAY / 2)
    waiting = await scene.park("another", age=DAY / 2, wait=DAY)

    await scene.work()

    dead = await scene.rows(dead_letters)
    assert [(row.message_id, row.reason, row.attempts) for row in dead] == [
        (first, "body_expired", 1),
        (second, "body_expired", 1),
    ]
    assert all(row.body == b"" and row.body_expired_at is not None for row in dead)
    assert LEAK_MARKER not in str(dead)
    assert scene.called == [young]
    assert await scene.status() == {first: "failed", second: "failed", young: "completed"}
    assert [row.message_id for row in await scene.rows(parked_messages)] == [waiting]
    assert await scene.rows(begun_deliveries) == []


async def test_a_message_expires_after_a_failed_attempt_that_began_in_time(scene):
    parked = await scene.park("lane", age=2 * DAY)
    scene.fails = True
    async with scene.expiring.strikes.begin() as steps:
        assert steps is not None
        assert await scene.patient.attempt_next()
        settled = await transact(scene.expiring.strikes.context.executor.units, steps)

    assert settled is None
    assert scene.called == [parked]
    assert [row.attempts for row in await scene.rows(parked_messages)] == [2]
    assert await scene.rows(dead_letters) == []

    await scene.work()

    assert [(row.message_id, row.attempts) for row in await scene.rows(dead_letters)] == [
        (parked, 2)
    ]
    assert scene.called == [parked]


async def test_an_attempt_that_runs_is_neither_waited_for_nor_ended(postgres):
    """On SQLite a transaction that writes excludes all others."""
    scene = Scene(postgres)
    parked = await scene.park("lane", age=2 * DAY)
    scene.holds.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.patient.attempt_next())
        await eventually(lambda: scene.called, within=10)
        await scene.work()
        scene.holds.set()

    assert await scene.status() == {parked: "completed"}
    assert await scene.rows(dead_letters) == []


async def test_an_expired_copy_of_a_completed_message_leaves_no_dead_letter(scene):
    parked = await scene.park("lane", age=2 * DAY)
    async with scene.sessions.begin() as session:
        await session.execute(
            sa.update(parked_messages).values(parked_at=now_plus(sa.literal(0.0)))
        )
        copy = sa.insert(parked_messages).from_select(
            names := [c.name for c in parked_messages.c if c.name != "id"],
            sa.select(*(parked_messages.c[name] for name in names)),
        )
        await session.execute(copy)
    assert await scene.patient.attempt_next()
    async with scene.sessions.begin() as session:
        long_ago = now_plus(sa.literal(-2 * DAY.total_seconds()))
        await session.execute(sa.update(parked_messages).values(parked_at=long_ago))

    await scene.work()

    assert await scene.status() == {parked: "completed"}
    assert await scene.rows(dead_letters) == []
    assert await scene.rows(parked_messages) == []
