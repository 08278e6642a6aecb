"""
Every step of the protocols as a place to die, or to be cut off, in a story in which all of them
are taken.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.reliability.simulation.broker import Mishap
from tests.reliability.simulation.fault_points import Blow, Strike
from tests.reliability.simulation.handlers import FAILS_ONCE, KINDS, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, RELAY, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.protocol import STEPS, points
from tests.reliability.simulation.simulation import Simulation, simulated
from tests.reliability.simulation.world import World

PLAN = Plan(gives_up=True, batch=8)
MOST = max(len(points(role)) for role in STEPS)


async def tell(world: World) -> None:
    """A story of all kinds of events: retried, given up, mended, replayed, forgotten."""
    supervisor = asyncio.ensure_future(start_again_and_again(world))
    world.broker.mishaps.extend([Mishap.RETURNED] * 3)
    await world.produce([Draft(world.an_id(), PLAIN)], Ending.COMMIT)
    await pass_time(2)
    keyed = [Draft(world.an_id(), kind, "key") for kind in (FAILS_ONCE, PLAIN, PLAIN)]
    unkeyed = [Draft(world.an_id(), kind) for kind in KINDS]
    await world.produce(keyed + unkeyed, Ending.COMMIT)
    await world.produce([Draft(world.an_id(), PLAIN, waits=0.5)], Ending.COMMIT)
    await pass_time(5)
    world.trade.is_mended = True
    await world.replay(ETL)
    await world.replay(RELAY)
    await world.purge(ETL)
    await pass_time(1)
    supervisor.cancel()


async def start_again_and_again(world: World) -> None:
    while True:
        await pass_time(0.5)
        world.start()


async def begin_again(world: World) -> None:
    """To begin is a part of the protocol, too."""
    for name in world.crew.names:
        world.crew.kill(name)
    world.start()


@contextmanager
def told(ground, *strikes: Strike) -> Iterator[Simulation]:
    with simulated(PLAN, ground, seed=1) as simulation:
        simulation.world.points.arm(*strikes)
        simulation.run(begin_again(simulation.world))
        simulation.run(tell(simulation.world))
        yield simulation


def left_of(ground, *strikes: Strike) -> list[Strike]:
    """Tell the story with *strikes* in it; returns those that it gave no occasion."""
    with told(ground, *strikes) as simulation:
        world = simulation.world
        left = world.points.armed
        assert world.look() == [], strikes

        simulation.run(world.heal_and_drain())

        assert world.look(drained=True) == [], strikes
        return left


def test_a_story_goes_through_the_whole_protocol_and_nothing_else(simulation_ground):
    with told(simulation_ground) as simulation:
        passed = set(simulation.world.points.passed)

        assert passed == {point for role in STEPS for point in points(role)}


@pytest.mark.parametrize("blow", Blow)
@pytest.mark.parametrize("number", range(MOST))
def test_a_blow_at_any_step_loses_nothing_and_repeats_nothing(simulation_ground, number, blow):
    """One step of each role at once, and alone what finds no occasion then."""
    of_roles = [points(role) for role in STEPS]
    strikes = [Strike(of_role[number], blow) for of_role in of_roles if number < len(of_role)]

    for strike in left_of(simulation_ground, *strikes):
        assert left_of(simulation_ground, strike) == []
