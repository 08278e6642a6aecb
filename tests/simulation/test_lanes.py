"""
Parked messages of an ordered consumer whose connection is lost at a bad moment.
"""

from datetime import timedelta

import pytest

import consumer.assembly
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.handlers import FAILS_ONCE, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import LEDGER, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World
from tests.support.eventually import eventually

LONGER_THAN_THE_RETENTION = timedelta(hours=4)


@pytest.mark.parametrize("step", ["record", "handle", "effect", "savepoint", "unpark"])
@pytest.mark.parametrize("moment", ["sent", "answered"])
def test_a_connection_that_is_lost_while_a_parked_message_is_attempted_ends_no_process(
    database_files, step, moment
):
    async def story(world: World) -> None:
        drafts = [Draft(world.an_id(), kind, "key") for kind in (FAILS_ONCE, PLAIN)]
        await world.produce(drafts, Ending.COMMIT)
        await eventually(lambda: world.points.passed["ledger.commit_park.answered"])
        world.points.arm(PlannedFault(f"ledger.{step}.{moment}", FaultAction.CUT))
        await pass_time(5)

    plan = Plan(etl=0, mail=0)
    with simulated(plan, database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))

        assert world.points.armed == []
        assert world.look(drained=True) == []


def test_a_copy_of_a_completed_message_is_not_parked_until_its_dedup_row_is_purged(database_files):
    async def story(world: World) -> None:
        await world.produce([Draft(world.an_id(), PLAIN, "key")], Ending.COMMIT)
        await eventually(lambda: world.points.passed["ledger.commit_effect.answered"])
        await world.produce([Draft(world.an_id(), FAILS_ONCE, "key")], Ending.COMMIT)
        await eventually(lambda: world.points.passed["ledger.commit_park.answered"])
        queue = consumer.assembly.queues(*world.declared[LEDGER]).name
        world.broker.repeat(queue, world.broker.archive[queue][0])
        await pass_time(0.2)
        world.skip(LONGER_THAN_THE_RETENTION)
        await world.purge(LEDGER)
        await pass_time(10)

    with simulated(Plan(etl=0, mail=0), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))

        assert world.look(drained=True) == []
