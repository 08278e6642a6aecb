"""
A simulation from start to end, driven from outside of its event loop.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.reliability.simulation.database_files import DatabaseFiles
from tests.reliability.simulation.loop import SimulatedLoop
from tests.reliability.simulation.plan import Plan
from tests.reliability.simulation.substitutes import replaced
from tests.reliability.simulation.world import World

Result = TypeVar("Result")


class Simulation:
    """A *world* and its event loop."""

    def __init__(self, world: World, loop: SimulatedLoop) -> None:
        self.world = world
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of *work*; all other tasks run only during this call."""
        return self._loop.run_until_complete(work)


@contextmanager
def simulated(plan: Plan, database_files: DatabaseFiles, *, seed: int) -> Iterator[Simulation]:
    """A simulation with running processes and declared queues."""
    loop = SimulatedLoop()
    loop.start_clock()
    try:
        world = World(plan, database_files, loop, seed=seed)
        with replaced(database_files, world.broker, seed=seed):
            simulation = Simulation(world, loop)
            simulation.run(_begin(world))
            try:
                yield simulation
            finally:
                simulation.run(world.supervisor.dismiss())
                simulation.run(_rest())
    finally:
        loop.stop_clock()
        loop.close()


async def _begin(world: World) -> None:
    world.start()
    await world.declare()


async def _rest() -> None:
    """Wait for the remaining tasks of ended processes."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
