"""
Killed processes in the simulation: they send no more data, and others take over.
"""

import pytest

from tests.reliability.simulation.broker import BrokerFault
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.handlers import PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World
from tests.support.eventually import eventually

PLAN = Plan(relays=2, etl=2, ledger=0, mail=0)


async def produce(world: World, ending: Ending = Ending.COMMIT) -> str:
    draft = Draft(world.an_id(), PLAIN)
    await world.produce([draft], ending)
    return str(draft.id)


def outcome_of(world: World, id_: str) -> str:
    return next(each.outcome for each in world.history() if getattr(each, "id", "") == id_)


def places_of(world: World, id_: str) -> list[str]:
    kinds = [type(each).__name__ for each in world.history() if getattr(each, "id", "") == id_]
    return [kind for kind in kinds if kind != "Produced"]


@pytest.mark.parametrize(
    ("ending", "outcome", "places"),
    [
        (Ending.COMMIT, "committed", ["Published", "Applied"]),
        (Ending.ROLLBACK, "rolled_back", []),
        (Ending.CUT_BEFORE, "unknown", []),
        (Ending.CUT_AFTER, "unknown", ["Published", "Applied"]),
        (Ending.KILL_BEFORE, "unknown", []),
        (Ending.KILL_AFTER, "unknown", ["Published", "Applied"]),
    ],
)
def test_a_producer_knows_the_outcome_only_if_it_got_a_reply(
    database_files, ending, outcome, places
):
    async def story(world: World) -> str:
        id_ = await produce(world, ending)
        await pass_time(5)
        return id_

    with simulated(PLAN, database_files, seed=1) as simulation:
        id_ = simulation.run(story(simulation.world))

        assert outcome_of(simulation.world, id_) == outcome
        assert places_of(simulation.world, id_) == places


def test_a_second_relay_takes_over_from_a_killed_one(database_files):
    async def story(world: World) -> list[str]:
        ids = [await produce(world)]
        await pass_time(3)
        world.supervisor.kill("relay-1")
        ids.append(await produce(world))
        await pass_time(5)
        return ids

    with simulated(PLAN, database_files, seed=1) as simulation:
        ids = simulation.run(story(simulation.world))

        assert [places_of(simulation.world, id_) for id_ in ids] == [["Published", "Applied"]] * 2


def test_uncommitted_effects_vanish_with_their_process(database_files):
    async def story(world: World) -> str:
        world.points.arm(PlannedFault("etl.commit_effect.sent", FaultAction.KILL))
        id_ = await produce(world)
        await eventually(lambda: not world.points.armed)
        return id_

    with simulated(PLAN, database_files, seed=1) as simulation:
        world = simulation.world
        id_ = simulation.run(story(world))
        dead = [name for name in ("etl-1", "etl-2") if world.supervisor.process(name) is None]

        assert len(dead) == 1
        assert places_of(world, id_) == ["Published", "Waiting"]
        simulation.run(pass_time(5))
        assert places_of(world, id_) == ["Published", "Applied"]


@pytest.mark.parametrize(
    ("broker_fault", "copies"),
    [
        (BrokerFault.LOST, 1),
        (BrokerFault.TAKEN, 2),
        (BrokerFault.RETURNED, 1),
        (BrokerFault.REFUSED, 1),
        (BrokerFault.REFUSED_BY_SOME, 2),
    ],
)
def test_a_relay_publishes_a_message_until_it_is_confirmed(database_files, broker_fault, copies):
    async def story(world: World) -> str:
        world.broker.broker_faults.append(broker_fault)
        id_ = await produce(world)
        await pass_time(10)
        return id_

    with simulated(PLAN, database_files, seed=1) as simulation:
        id_ = simulation.run(story(simulation.world))

        assert places_of(simulation.world, id_) == ["Published"] * copies + ["Applied"]
