"""
The counts of processes that ended with a parked message, and what follows, on both databases.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from consumer import Consumer, Message
from consumer.assembly import assemble
from consumer.dispatch.parked_worker import ParkedWorker
from consumer.settings import ConsumerSettings
from consumer.storage.begun import BegunDeliveries
from consumer.storage.parked import ParkedMessages
from consumer.storage.tables import begun_deliveries, parked_messages
from consumer.telemetry import Telemetry
from outbox.runtime.probes import Health
from outbox.tables import dead_letters
from tests.support.builders import an_event, on_the_wire

LIMIT = 3


class Scene:
    """Parked messages, one for each of *lanes*, and the parked worker of a new process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sessions = async_sessionmaker(engine)
        self.begun = BegunDeliveries("etl", self.sessions)
        self.called: list[dict[str, int]] = []
        """The strikes in the database in each call of the handler."""
        self.holds, self.fails = asyncio.Event(), False
        self.holds.set()
        self.worker = self.a_process()

    def a_process(self) -> ParkedWorker:
        consumer = Consumer("etl", bindings=["#"], ordered=True)

        @consumer.on("test.happened")
        async def handle(_message: Message[dict], session: AsyncSession) -> None:
            self.called.append(await self.strikes_in(session))
            await self.holds.wait()
            if self.fails:
                raise RuntimeError

        worker = assemble(
            consumer,
            ConsumerSettings(_env_file=None, retry_delays=(60,), delivery_limit=LIMIT),
            self.engine,
            telemetry=Telemetry(CollectorRegistry(), source="etl", queue="q", known=()),
            health=Health(),
        ).parked_worker
        assert worker is not None
        return worker

    async def park(self, *lanes: str) -> list[int]:
        """Park a message in each of *lanes*; returns their ids."""
        async with self.sessions.begin() as session:
            for lane in lanes:
                message = on_the_wire(an_event(ordering_key=lane), exchange="main")
                await ParkedMessages("etl").park(
                    session, message, lane=lane, attempts=1, wait=timedelta(0)
                )
        return [row.id for row in await self.rows(parked_messages)][-len(lanes) :]

    async def strike(self, parked: int, times: int) -> None:
        for _ in range(times):
            async with self.sessions.begin() as session:
                await self.begun.begin_parked(session, parked)

    async def rows(self, table: sa.Table) -> list[Any]:
        async with self.engine.connect() as connection:
            return list(await connection.execute(sa.select(table).order_by(*table.primary_key)))

    async def strikes_in(self, session: AsyncSession) -> dict[str, int]:
        rows = await session.execute(sa.select(begun_deliveries))
        return {row.message: row.strikes for row in rows}

    async def strikes(self) -> dict[str, int]:
        async with self.sessions() as session:
            return await self.strikes_in(session)


@pytest.fixture
def scene(engine: AsyncEngine) -> Scene:
    return Scene(engine)


async def test_the_strikes_of_a_parked_message_are_no_others(scene):
    await scene.begun.begin(["7"])
    async with scene.sessions.begin() as session:
        assert [await scene.begun.begin_parked(session, 7) for _ in range(3)] == [0, 1, 2]
        await scene.begun.take_back_parked(session, 7)
        assert await scene.begun.begin_parked(session, 7) == 2
        assert await scene.begun.begin_parked(session, 8) == 0
        await scene.begun.forget_parked(session, 7)

    assert await scene.strikes() == {"7": 1, "parked 8": 1}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_strike_is_committed_before_the_attempt_and_deleted_with_its_outcome(scene, fails):
    scene.fails = fails
    (parked,) = await scene.park("lane")
    await scene.strike(parked, 1)

    assert await scene.worker.attempt_next()

    assert scene.called == [{f"parked {parked}": 2}]
    assert await scene.strikes() == {}
    assert len(await scene.rows(parked_messages)) == fails


async def test_a_suspect_is_held_back_by_a_young_process_and_other_lanes_flow(scene):
    suspect, _ = await scene.park("a", "b")
    await scene.strike(suspect, 2)

    assert await scene.worker.attempt_next()
    assert not await scene.worker.attempt_next()

    assert len(scene.called) == 1
    (left,) = await scene.rows(parked_messages)
    assert (left.id, left.attempts) == (suspect, 1)
    assert await scene.strikes() == {f"parked {suspect}": 2}


async def test_a_suspect_is_attempted_alone_by_a_process_that_has_lived_longer(scene):
    (suspect,) = await scene.park("a")
    await scene.strike(suspect, 2)
    scene.worker.strikes.lived_since(asyncio.get_running_loop().time() - 10)

    async with scene.worker.turns.beside_others():
        attempt = asyncio.create_task(scene.worker.attempt_next())
        await asyncio.wait({attempt}, timeout=0.2)
        assert scene.called == []

    assert await attempt
    assert scene.called == [{f"parked {suspect}": 3}]
    assert (await scene.strikes(), await scene.rows(parked_messages)) == ({}, [])


async def test_a_message_at_the_limit_is_given_up_and_its_lane_goes_on(scene):
    poison, _ = await scene.park("a", "a")
    await scene.strike(poison, LIMIT)

    assert await scene.worker.attempt_next()
    (dead,) = await scene.rows(dead_letters)
    assert (dead.reason, dead.attempts, scene.called) == ("delivery_limit", 1, [])

    assert await scene.worker.attempt_next()
    assert len(scene.called) == 1
    assert (await scene.strikes(), await scene.rows(parked_messages)) == ({}, [])


async def test_a_process_that_is_stopped_takes_its_strike_back(scene):
    (parked,) = await scene.park("a")
    await scene.strike(parked, 1)
    scene.holds.clear()
    attempt = asyncio.create_task(scene.worker.attempt_next())
    while not scene.called:
        await asyncio.wait({attempt}, timeout=0.02)

    attempt.cancel()
    await asyncio.wait({attempt}, timeout=10)

    assert attempt.cancelled()
    assert await scene.strikes() == {f"parked {parked}": 1}


async def test_a_message_that_another_process_attempts_gets_no_strike(scene):
    """On SQLite the other process waits for the database, and then finds the message done."""
    await scene.park("a")
    scene.holds.clear()
    attempt = asyncio.create_task(scene.worker.attempt_next())
    while not scene.called:
        await asyncio.wait({attempt}, timeout=0.02)

    other = asyncio.create_task(scene.a_process().attempt_next())
    await asyncio.wait({other}, timeout=0.2)
    scene.holds.set()

    assert await attempt
    assert not await other
    assert (await scene.strikes(), len(scene.called)) == ({}, 1)
