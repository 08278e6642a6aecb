"""
Time in the simulation: it jumps, and all clocks follow it.
"""

import asyncio
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.reliability.simulation.driver import Connection
from tests.reliability.simulation.fault_points import FaultPoints
from tests.reliability.simulation.loop import BEGINNING, SimulatedLoop, StandstillError
from tests.reliability.simulation.process import Process


@pytest.fixture
def loop():
    loop = SimulatedLoop()
    loop.start_clock()
    yield loop
    loop.stop_clock()
    loop.close()


def test_a_simulated_day_takes_no_real_time(loop):
    began = time.perf_counter()

    loop.run_until_complete(asyncio.sleep(86_400))

    assert time.perf_counter() - began < 10
    assert loop.time() == pytest.approx(86_400)
    assert abs(datetime.now(UTC) - BEGINNING - timedelta(days=1)) < timedelta(seconds=1)


def test_callbacks_run_in_order_of_time_and_then_of_creation(loop):
    happened = []

    async def happen(what, after):
        await asyncio.sleep(after)
        happened.append(what)

    async def all_of_them():
        async with asyncio.TaskGroup() as group:
            for what, after in (("c", 2), ("a", 1), ("b", 1), ("d", 2)):
                group.create_task(happen(what, after))

    loop.run_until_complete(all_of_them())

    assert sorted(happened[:2]) == ["a", "b"]
    assert sorted(happened[2:]) == ["c", "d"]


def test_a_task_that_waits_for_nothing_raises_a_standstill(loop):
    with pytest.raises(StandstillError):
        loop.run_until_complete(asyncio.Event().wait())


def test_a_skip_moves_the_wall_clock_and_no_timers(loop):
    loop.skip(timedelta(hours=3))

    assert datetime.now(UTC) - BEGINNING == timedelta(hours=3)
    assert loop.time() == 0


def test_the_clock_of_a_database_is_the_simulated_one(loop, tmp_path: Path):
    async def ask(connection: Connection) -> str:
        cursor = connection.cursor()
        await cursor.execute("SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now', 90 || ' seconds')")
        [[text]] = await cursor.fetchall()
        return text

    async def two_answers() -> list[str]:
        process = Process("anybody", "anybody", FaultPoints(lambda *_: None))
        connection = Connection(tmp_path / "a.db", process, delay=lambda: 0.0)
        with closing(connection.raw()):
            first = await ask(connection)
            await asyncio.sleep(60)
            return [first, await ask(connection)]

    assert loop.run_until_complete(two_answers()) == [
        "2026-01-01 00:01:30.000000",
        "2026-01-01 00:02:30.000000",
    ]


def test_the_real_clock_is_back_after_a_simulation(loop):
    loop.stop_clock()

    assert abs(datetime.now(UTC).timestamp() - time.time()) < 1
    assert datetime.now(UTC) != BEGINNING
