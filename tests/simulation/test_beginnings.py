"""
Processes that start while a server is unavailable: the supervisor starts them again.
"""

import pytest

from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import Plan
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World

ALL_OF_THEM = ["relay", "etl", "ledger", "mail"]


@pytest.mark.parametrize("role", ALL_OF_THEM)
def test_a_database_lost_during_a_start_check_is_unavailable_and_not_invalid(database_files, role):
    async def begin_again(world: World) -> None:
        for looked_before in range(4):
            world.supervisor.kill(f"{role}-1")
            world.points.arm(PlannedFault(f"{role}.look.sent", FaultAction.CUT, looked_before))
            world.supervisor.start(f"{role}-1")
            await pass_time(5)
            world.points.disarm()

    with simulated(Plan(), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(begin_again(world))

        assert world.supervisor.findings == []
        assert world.supervisor.process(f"{role}-1") is not None


def test_a_process_starts_once_its_servers_are_back(database_files):
    async def begin_without_servers(world: World) -> None:
        world.broker.leave()
        for database in world.databases.values():
            database.leave()
        for role in ALL_OF_THEM:
            world.supervisor.kill(f"{role}-1")
        world.start()
        await pass_time(30)

    async def come_back(world: World) -> None:
        world.heal()
        await pass_time(5)

    with simulated(Plan(), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(begin_without_servers(world))
        assert not any(world.supervisor.process(f"{role}-1") for role in ALL_OF_THEM)

        simulation.run(come_back(world))

        assert all(world.supervisor.process(f"{role}-1") for role in ALL_OF_THEM)
        assert world.supervisor.findings == []
