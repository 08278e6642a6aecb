"""
Replays: copies that come back long after their run.
"""

from datetime import timedelta

import consumer.assembly
from tests.reliability.simulation.handlers import NEEDS_REPAIR
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World
from tests.support.eventually import eventually

LONGER_THAN_THE_RETENTION = timedelta(hours=4)


def test_a_copy_of_a_replay_is_handled_only_while_its_dedup_row_is_kept(database_files):
    async def story(world: World) -> None:
        await world.produce([Draft(world.an_id(), NEEDS_REPAIR)], Ending.COMMIT)
        await eventually(lambda: world.points.passed["etl.commit_dead_letter.answered"])
        world.handlers.is_fixed = True
        await world.replay(ETL)
        await eventually(lambda: world.points.passed["etl.commit_effect.answered"])
        world.skip(LONGER_THAN_THE_RETENTION)
        await world.purge(ETL)
        queue = consumer.assembly.queues(*world.declared[ETL]).name
        world.broker.repeat(queue, world.broker.archive[queue][-1])
        await pass_time(5)

    with simulated(Plan(ledger=0, mail=0), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))

        assert world.look(drained=True) == []
