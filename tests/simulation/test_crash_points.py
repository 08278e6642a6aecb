"""
A kill or a cut at every step of the protocols, in a scenario that passes all of them.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.reliability.simulation.broker import BrokerFault
from tests.reliability.simulation.database_files import DatabaseFiles
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.handlers import FAILS_ONCE, KINDS, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, LEDGER, MAIL, RELAY, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.protocol import STEPS, points
from tests.reliability.simulation.simulation import Simulation, simulated
from tests.reliability.simulation.world import World

PLAN = Plan(dead_letters=True, batch=8)
MOST = max(len(points(role)) for role in STEPS)


async def run_story(world: World) -> None:
    """A scenario with all kinds of events: retried, dead-lettered, replayed, purged."""
    supervisor = asyncio.ensure_future(start_again_and_again(world))
    world.broker.broker_faults.extend([BrokerFault.RETURNED] * 3)
    await world.produce([Draft(world.an_id(), PLAIN)], Ending.COMMIT)
    await pass_time(2)
    keyed = [Draft(world.an_id(), kind, "key") for kind in (FAILS_ONCE, PLAIN, PLAIN)]
    unkeyed = [Draft(world.an_id(), kind) for kind in KINDS]
    await world.produce(keyed + unkeyed, Ending.COMMIT)
    await world.produce([Draft(world.an_id(), PLAIN, waits=0.5)], Ending.COMMIT)
    await kill_each_consumer_with_a_delivery(world)
    await pass_time(6.2)
    world.handlers.is_fixed = True
    await world.replay(ETL)
    await world.replay(RELAY)
    await world.purge(ETL)
    await pass_time(1)
    supervisor.cancel()


async def kill_each_consumer_with_a_delivery(world: World) -> None:
    """Its deliveries are counted when they are delivered again."""
    left = {ETL, LEDGER, MAIL}
    while left:
        await pass_time(0.01)
        for name in world.supervisor.names:
            role = name.partition("-")[0]
            queue = world.broker.queues.get(f"health_data_processing.{role}")
            if role in left and queue and any(each.unsettled for each in queue.receivers):
                world.supervisor.kill(name)
                left.remove(role)


async def start_again_and_again(world: World) -> None:
    while True:
        await pass_time(0.5)
        world.start()


async def begin_again(world: World, database_files: DatabaseFiles) -> None:
    """To begin is a part of the protocol, too."""
    for name in world.supervisor.names:
        world.supervisor.kill(name)
    database_files.forget_targets()
    world.start()


@contextmanager
def run_with(database_files, *faults: PlannedFault) -> Iterator[Simulation]:
    with simulated(PLAN, database_files, seed=1) as simulation:
        simulation.world.points.arm(*faults)
        simulation.run(begin_again(simulation.world, database_files))
        simulation.run(run_story(simulation.world))
        yield simulation


def left_of(database_files, *faults: PlannedFault) -> list[PlannedFault]:
    """Run the scenario with *faults*; return the faults whose step it did not pass."""
    with run_with(database_files, *faults) as simulation:
        world = simulation.world
        left = world.points.armed
        assert world.look() == [], faults

        simulation.run(world.heal_and_drain())

        assert world.look(drained=True) == [], faults
        return left


def test_the_scenario_passes_every_step_of_the_protocols_and_no_other(database_files):
    with run_with(database_files) as simulation:
        passed = set(simulation.world.points.passed)

        assert passed == {point for role in STEPS for point in points(role)}


@pytest.mark.parametrize("action", FaultAction)
@pytest.mark.parametrize("number", range(MOST))
def test_a_fault_at_any_step_loses_nothing_and_repeats_nothing(database_files, number, action):
    """One step of each role in one run; a fault that was not injected gets a run of its own."""
    of_roles = [points(role) for role in STEPS]
    faults = [
        PlannedFault(of_role[number], action) for of_role in of_roles if number < len(of_role)
    ]

    for fault in left_of(database_files, *faults):
        assert left_of(database_files, fault) == []
