"""
Operators of the broker: bindings that they remove, limits that they set; and its priorities.
"""

import pytest

import consumer.assembly
from outbox import Priority
from tests.reliability.simulation.handlers import FAILS_ONCE, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, LEDGER, MAIL, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.queue import DROP_HEAD, REJECT_PUBLISH, Policy
from tests.reliability.simulation.simulation import simulated
from tests.reliability.simulation.world import World

INSPECTED_WITHIN_SECONDS = 16


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


def queue_of(world: World, name: str) -> str:
    return consumer.assembly.queues(*world.declared[name]).name


@pytest.mark.parametrize("name", [ETL, LEDGER, MAIL])
def test_a_binding_that_was_removed_is_back_after_one_inspection(database_files, name):
    async def story(world: World) -> list[str]:
        world.broker.unbind(queue_of(world, name))
        await pass_time(INSPECTED_WITHIN_SECONDS)
        ids = await produce(world, PLAIN)
        await pass_time(5)
        return ids

    with simulated(Plan(), database_files, seed=1) as simulation:
        world = simulation.world
        ids = simulation.run(story(world))

        assert world.broker.removed_bindings == {}
        assert applied(world, name) == set(ids)
        assert world.look(drained=True) == []


@pytest.mark.parametrize("overflow", [DROP_HEAD, REJECT_PUBLISH])
@pytest.mark.parametrize("which", ["work", "retry", "dead"])
def test_a_policy_that_limits_a_queue_loses_no_message(database_files, which, overflow):
    """Events fail, or expire while no process works: each of the queues fills."""

    async def story(world: World) -> None:
        queues = consumer.assembly.queues(*world.declared[ETL])
        limited = {
            "work": [queues.name],
            "retry": [*queues.retry_queues.values()],
            "dead": [queues.dead],
        }
        for name in limited[which]:
            world.broker.limit(name, Policy(1, overflow))
        await produce(world, *[FAILS_ONCE] * 5)
        await pass_time(5)
        world.supervisor.kill("etl-1")
        await produce(world, *[PLAIN] * 10)
        await pass_time(60)

    with simulated(Plan(ledger=0, mail=0, expires=True), database_files, seed=1) as simulation:
        world = simulation.world
        simulation.run(story(world))

        assert world.look() == []
        simulation.run(world.heal_and_drain())
        assert world.look(drained=True) == []


def test_copies_in_a_retry_queue_have_one_priority(database_files):
    """Otherwise RabbitMQ 4.0 lets an expired copy wait behind one of a higher priority."""
    seen: set[int | None] = set()

    async def story(world: World) -> None:
        drafts = [Draft(world.an_id(), FAILS_ONCE, priority=each) for each in Priority]
        await world.produce(drafts, Ending.COMMIT)
        queues = consumer.assembly.queues(*world.declared[ETL]).retry_queues.values()
        for _ in range(100):
            seen.update(
                message.priority
                for queue in queues
                for message in world.broker.queues[queue].messages
            )
            await pass_time(0.05)

    plan = Plan(ledger=0, mail=0, priorities=True)
    with simulated(plan, database_files, seed=1) as simulation:
        simulation.run(story(simulation.world))

        assert len(seen) == 1
        assert simulation.world.look(drained=True) == []
