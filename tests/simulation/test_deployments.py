"""
Deployments: processes that end again and again, and workers of two versions.
"""

import pytest

from tests.reliability.history import DeadLettered, of_kind
from tests.reliability.simulation.handlers import ENDS_PROCESS, NEW, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, LEDGER, MAIL, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World

SLOW_SECONDS = 5.0
LIMIT = 3


async def crash(world: World, name: str) -> None:
    world.supervisor.kill(name)


async def stop_cleanly(world: World, name: str) -> None:
    await world.supervisor.stop(name)


@pytest.mark.parametrize("end", [crash, stop_cleanly])
@pytest.mark.parametrize("name", [ETL, LEDGER, MAIL])
def test_processes_that_end_again_and_again_dead_letter_no_message_that_waits(
    database_files, name, end
):
    async def story(world: World) -> None:
        drafts = [Draft(world.an_id(), PLAIN, key) for key in "abc" for _ in range(4)]
        await world.produce(drafts, Ending.COMMIT)
        with world.handlers.slower_by(SLOW_SECONDS):
            await pass_time(2)
            for _ in range(3 * LIMIT):
                await end(world, f"{name}-1")
                world.start()
                await pass_time(2)
        await pass_time(30)

    plan = Plan(etl=name == ETL, ledger=name == LEDGER, mail=name == MAIL, delivery_limit=LIMIT)
    with simulated(plan, database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))
        simulation.run(world.heal_and_drain())

        assert world.look(drained=True) == []


@pytest.mark.parametrize("name", [ETL, LEDGER])
def test_workers_of_an_old_version_dead_letter_no_event_of_a_new_type(database_files, name):
    async def story(world: World) -> None:
        kinds = (PLAIN, NEW, NEW) * 4
        drafts = [Draft(world.an_id(), kind, "key") for kind in kinds]
        await world.produce(drafts, Ending.COMMIT)
        await pass_time(1)
        world.finish_rollout()
        world.start()
        await pass_time(30)

    plan = Plan(etl=2 * (name == ETL), ledger=2 * (name == LEDGER), mail=0, rolling=True)
    with simulated(plan, database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))
        simulation.run(world.heal_and_drain())

        assert world.look(drained=True) == []


@pytest.mark.parametrize("name", [ETL, LEDGER, MAIL])
def test_a_message_that_ends_its_process_each_time_is_given_up(database_files, name):
    async def story(world: World) -> None:
        drafts = [Draft(world.an_id(), kind) for kind in (PLAIN, ENDS_PROCESS, PLAIN)]
        await world.produce(drafts, Ending.COMMIT)
        await pass_time(60)

    plan = Plan(etl=name == ETL, ledger=name == LEDGER, mail=name == MAIL, delivery_limit=LIMIT)
    with simulated(plan, database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))

        assert world.look(drained=True) == []
        reasons = [each.reason for each in of_kind(world.history(), DeadLettered)]
        assert reasons == ["delivery_limit"]
