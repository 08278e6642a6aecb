"""
Hypothesis chooses faults and operations, and shrinks a failing sequence to the shortest one.
"""

from contextlib import ExitStack
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import consumer.assembly
from tests.reliability.simulation.broker import BrokerFault
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.handlers import FAILS_ONCE, KINDS, PLAIN
from tests.reliability.simulation.loop import pass_time
from tests.reliability.simulation.plan import ETL, LEDGER, MAIL, RELAY, Plan
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.protocol import STEPS, points
from tests.reliability.simulation.simulation import Simulation, simulated
from tests.reliability.simulation.world import World

CONSUMERS = (ETL, LEDGER, MAIL)
POINTS = [point for role in STEPS for point in points(role)]
PROCESSES = ("relay-1", "relay-2", "etl-1", "etl-2", "ledger-1", "ledger-2", "mail-1")


class Product(RuleBasedStateMachine):
    """The product in a simulation; the test sets *files*."""

    files = None

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.simulation: Simulation

    @initialize(
        seed=st.integers(0, 2**16), batch=st.sampled_from([1, 3]), limit=st.sampled_from([2, 20])
    )
    def set_up(self, seed, batch, limit):
        plan = Plan(relays=2, etl=2, ledger=2, handled_together=batch, delivery_limit=limit)
        self.simulation = self.stack.enter_context(simulated(plan, self.files, seed=seed))

    @property
    def world(self) -> World:
        return self.simulation.world

    def do(self, work, *arguments) -> None:
        """Run *work* inside the event loop, then let the other tasks run for 50 ms."""

        async def done() -> None:
            work(*arguments)
            await pass_time(0.05)

        self.simulation.run(done())

    @rule(
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
        ending=st.sampled_from(Ending),
    )
    def produce(self, kinds, ending):
        drafts = [Draft(self.world.an_id(), kind) for kind in kinds]
        self.simulation.run(self.world.produce(drafts, ending))

    @rule(
        kinds=st.lists(st.sampled_from([PLAIN, FAILS_ONCE]), min_size=1, max_size=3),
        key=st.sampled_from("ab"),
        ending=st.sampled_from(Ending),
    )
    def produce_in_order(self, kinds, key, ending):
        drafts = [Draft(self.world.an_id(), kind, key) for kind in kinds]
        self.simulation.run(self.world.produce(drafts, ending))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def pass_time(self, seconds):
        self.simulation.run(pass_time(seconds))

    @rule(
        point=st.sampled_from(POINTS), action=st.sampled_from(FaultAction), skip=st.integers(0, 2)
    )
    def fault(self, point, action, skip):
        self.world.points.arm(PlannedFault(point, action, skip))

    @rule(name=st.sampled_from(PROCESSES))
    def kill(self, name):
        self.do(self.world.supervisor.kill, name)

    @rule(name=st.sampled_from(PROCESSES))
    def stop(self, name):
        self.simulation.run(self.world.supervisor.stop(name))

    @rule()
    def start(self):
        self.do(self.world.start)

    @rule(broker_faults=st.lists(st.sampled_from(BrokerFault), min_size=1, max_size=3))
    def inject_broker_faults(self, broker_faults):
        self.world.broker.broker_faults.extend(broker_faults)

    @rule(name=st.sampled_from(CONSUMERS), which=st.integers(0, 50))
    def repeat(self, name, which):
        broker, queue = self.world.broker, self.queue(name)
        if archive := broker.archive[queue]:
            self.do(broker.repeat, queue, archive[which % len(archive)])

    @rule(name=st.sampled_from([ETL, MAIL]), jitter=st.randoms(use_true_random=False))
    def reorder(self, name, jitter):
        self.world.broker.queues[self.queue(name)].shuffle(jitter)

    @rule()
    def cut_broker(self):
        self.do(self.world.broker.cut)

    @rule()
    def cut_databases(self):
        for database in self.world.databases.values():
            self.do(database.cut)

    @precondition(lambda self: not self.world.broker.is_unavailable)
    @rule()
    def lose_broker(self):
        self.do(self.world.broker.leave)

    @precondition(lambda self: self.world.broker.is_unavailable)
    @rule()
    def restore_broker(self):
        self.do(self.world.broker.come_back)

    @rule(hours=st.sampled_from([0.01, 1.5, 4.0]))
    def skip(self, hours):
        self.world.skip(timedelta(hours=hours))

    @rule(name=st.sampled_from(CONSUMERS))
    def purge(self, name):
        self.simulation.run(self.world.purge(name))

    @rule(source=st.sampled_from([RELAY, *CONSUMERS]))
    def repair_and_replay(self, source):
        self.world.handlers.is_fixed = True
        self.simulation.run(self.world.replay(source))

    @invariant()
    def no_guarantee_is_broken(self):
        assert self.world.look() == []

    def teardown(self):
        with self.stack:
            if not hasattr(self, "simulation"):
                return
            self.simulation.run(self.world.heal_and_drain())
            assert self.world.look(drained=True) == []

    def queue(self, name: str) -> str:
        return consumer.assembly.queues(*self.world.declared[name]).name


@pytest.mark.timeout(300)
def test_the_product_keeps_its_guarantees_in_every_sequence_that_hypothesis_finds(database_files):
    class ProductOnTheseFiles(Product):
        files = database_files

    run_state_machine_as_test(
        ProductOnTheseFiles,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
