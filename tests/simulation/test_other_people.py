"""
Other people in the database: their rows in the outbox, and the rows that they keep.
"""

import pytest

from tests.reliability.simulation.handlers import PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.other_people import HOSTILE_ROWS
from tests.reliability.simulation.plan import ETL, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World


async def produce(world: World, *kinds: str, key: str | None = None) -> list[str]:
    drafts = [Draft(world.an_id(), kind, key) for kind in kinds]
    await world.produce(drafts, Ending.COMMIT)
    return [str(draft.id) for draft in drafts]


def applied(world: World, consumer: str) -> set[str]:
    return {
        each.id
        for each in world.history()
        if type(each).__name__ == "Applied" and each.consumer == consumer
    }


@pytest.mark.parametrize("dead_letters", [True, False])
def test_hostile_rows_among_good_ones_stop_none_of_them(database_files, dead_letters):
    async def story(world: World) -> list[str]:
        good: list[str] = []
        for kind in HOSTILE_ROWS:
            good += await produce(world, PLAIN)
            await world.insert_hostile_row(kind)
            good += await produce(world, PLAIN, key="key")
        await pass_time(20)
        return good

    with simulated(
        Plan(ledger=0, mail=0, dead_letters=dead_letters), database_files, seed=1
    ) as simulation:
        world = simulation.world
        good = simulation.run(story(world))

        assert world.look() == []
        assert set(good) - applied(world, ETL) == set()
        simulation.run(world.heal_and_drain())
        assert world.look(drained=True) == []


def test_a_row_that_other_people_keep_holds_up_no_other_row(database_files):
    async def story(world: World) -> list[str]:
        kept = world.an_id()
        await world.other_people.keep(str(kept))
        drafts = [Draft(kept, PLAIN), *(Draft(world.an_id(), PLAIN) for _ in range(5))]
        await world.produce(drafts, Ending.COMMIT)
        await pass_time(10)
        return await produce(world, PLAIN)

    with simulated(Plan(ledger=0, mail=0), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))
        simulation.run(pass_time(5))

        waiting = [each for each in world.history() if type(each).__name__ == "Waiting"]
        assert world.look() == []
        assert len(waiting) == 1
        simulation.run(world.heal_and_drain())
        assert world.look(drained=True) == []
