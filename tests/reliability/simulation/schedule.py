"""
A random schedule: operations and faults, one after another.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

import consumer.assembly
from outbox import Priority
from tests.reliability.simulation.broker import BrokerFault
from tests.reliability.simulation.fault_points import FaultAction, PlannedFault
from tests.reliability.simulation.handlers import ENDS_PROCESS, FAILS_ONCE, KINDS, NEW, PLAIN
from tests.reliability.simulation.other_people import HOSTILE_ROWS
from tests.reliability.simulation.plan import ETL, MAIL, OPERATOR, RELAY
from tests.reliability.simulation.producer import Draft, Ending
from tests.reliability.simulation.queue import DROP_HEAD, REJECT_PUBLISH, Policy
from tests.reliability.simulation.world import World

_KEYS = (None, None, None, "a", "a", "b")
_ENDINGS = (*[Ending.COMMIT] * 12, *Ending)
_MOST_EVENTS = 4
_MOST_STRIKES = 3
_LONGEST_AWAY_SECONDS = 6.0
_BAD_DAYS = 0.6
_CALM = 0.1
"""Of so many runs nothing is wrong, and nothing is sent twice."""
_LATER = 0.1
_BACKLOG = 8
_SLOW_SECONDS = 2.0
_MOST_CRASHES = 5
_BETWEEN_CRASHES_SECONDS = (0.3, 1.5)
SKIPS = (
    timedelta(seconds=20),
    timedelta(minutes=5),
    timedelta(minutes=40),
    timedelta(minutes=90),
    timedelta(hours=4),
)
"""The retention is two hours, and rows are kept for one more."""
_SET_BACK_SECONDS = (1, 10, 60)
_OLD_AND_NEW = 0.3
_ENDS_PROCESS = 0.03
_LOW_LIMIT = 3
"""A message that ends its process reaches a higher limit only after many minutes."""


class Schedule:
    """Random steps in *world*, drawn from *jitter*."""

    def __init__(self, world: World, jitter: Random) -> None:
        self._world = world
        self._jitter = jitter
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self.produce: 24,
            self.flow: 20,
            self.rest: 8,
            self.inject_fault: 16,
            self.kill: 6,
            self.stop: 3,
            self.start: 12,
            self.broker_faults: 8,
            self.repeat: 8,
            self.reorder: 2,
            self.cut_broker: 3,
            self.lose_broker: 2,
            self.block_broker: 2,
            self.cut_database: 3,
            self.lose_database: 2,
            self.skip: 4,
            self.set_clock_back: 2,
            self.insert_hostile_row: 3,
            self.keep_row: 2,
            self.crash_loop: 2,
            self.restart_often: 2,
            self.unbind: 2,
            self.limit_queue: 2,
            self.roll_out: 1,
            self.purge: 3,
            self.mend: 2,
            self.replay: 6,
        }

        if world.plan.expires:
            self._steps[self.fill_dead_queue] = 3
        if jitter.random() < _CALM:
            calm = (self.produce, self.flow, self.rest, self.start, self.stop, self.purge)
            self._steps = {step: self._steps[step] for step in calm}

    async def step(self) -> None:
        """Take a random step."""
        [step] = self._jitter.choices(list(self._steps), list(self._steps.values()))
        self._world.note(step.__name__)
        await step()

    async def produce(self) -> None:
        """Commit or roll back a transaction with some events."""
        drafts = [self._draft() for _ in range(self._jitter.randint(1, _MOST_EVENTS))]
        await self._world.produce(drafts, self._jitter.choice(_ENDINGS))

    async def flow(self) -> None:
        """Let at most 0.4 s pass."""
        await asyncio.sleep(self._jitter.uniform(0.01, 0.4))

    async def rest(self) -> None:
        """Let 1 to 5 s pass, long enough for retries."""
        await asyncio.sleep(self._jitter.uniform(1, 5))

    async def inject_fault(self) -> None:
        """Plan a fault at a point that was passed before."""
        self._arm(self._points())
        await self.flow()

    async def kill(self) -> None:
        self._world.supervisor.kill(self._anybody())

    async def stop(self) -> None:
        await self._world.supervisor.stop(self._anybody())

    async def start(self) -> None:
        """Start the processes that do not run."""
        self._world.start()
        await self.flow()

    async def broker_faults(self) -> None:
        """Inject faults for some of the next published messages."""
        fates = self._jitter.choices(list(BrokerFault), k=self._jitter.randint(1, 3))
        self._world.broker.broker_faults.extend(fates)

    async def repeat(self) -> None:
        """Put another copy of a published message into a work queue."""
        broker = self._world.broker
        for _ in range(self._jitter.randint(1, 3)):
            queue = self._work_queue(self._jitter.choice(list(self._world.declared)))
            if archive := broker.archive[queue]:
                broker.repeat(queue, self._jitter.choice(archive))

    async def reorder(self) -> None:
        """Shuffle the waiting messages of the consumers that are not ordered."""
        for name in (ETL, MAIL):
            if name in self._world.declared:
                self._world.broker.queues[self._work_queue(name)].shuffle(self._jitter)

    async def cut_broker(self) -> None:
        self._world.broker.cut(self._world.supervisor.process(self._anybody()))

    async def lose_broker(self) -> None:
        """Make the broker unavailable for a while."""
        self._world.broker.leave()
        self._later(self._world.broker.come_back)

    async def block_broker(self) -> None:
        """Make the broker block publishers for a while."""
        self._world.broker.block()
        self._later(self._world.broker.unblock)

    async def cut_database(self) -> None:
        for database in self._world.databases.values():
            database.cut(self._world.supervisor.process(self._anybody()))

    async def lose_database(self) -> None:
        """Make a database unavailable for a while."""
        database = self._jitter.choice(list(self._world.databases.values()))
        database.leave()
        self._later(database.come_back)

    async def skip(self) -> None:
        """Move the wall clock forward."""
        self._world.skip(self._jitter.choice(SKIPS))

    async def set_clock_back(self) -> None:
        """Move the wall clock back by at most a minute."""
        self._world.skip(-timedelta(seconds=self._jitter.choice(_SET_BACK_SECONDS)))

    async def insert_hostile_row(self) -> None:
        """Make other people insert a hostile row, among good ones."""
        kind = self._jitter.choice(list(HOSTILE_ROWS))
        self._world.note(kind)
        await self._world.insert_hostile_row(kind)

    async def keep_row(self) -> None:
        """Make other people keep a row that the relay wants to delete, for a while."""
        draft = self._draft()
        people = self._world.other_people
        await people.keep(str(draft.id))
        await self._world.produce([draft, self._draft()], Ending.COMMIT)
        await self.rest()
        await people.release()

    async def crash_loop(self) -> None:
        """Kill all processes of a role again and again, while messages wait behind slow ones."""
        await self._again_and_again(self._kill_now)

    async def restart_often(self) -> None:
        """Stop and start all processes of a role again and again, in the same way."""
        await self._again_and_again(self._world.supervisor.stop)

    async def _kill_now(self, name: str) -> None:
        self._world.supervisor.kill(name)

    async def _again_and_again(self, end: Callable[[str], Awaitable[None]]) -> None:
        world = self._world
        [role] = self._jitter.sample(list(world.declared), 1)
        names = [name for name in world.supervisor.names if world.plan.processes[name] == role]
        drafts = [self._draft() for _ in range(_BACKLOG)]
        await world.produce(drafts, Ending.COMMIT)
        with world.handlers.slower_by(_SLOW_SECONDS):
            for _ in range(min(world.plan.delivery_limit, _MOST_CRASHES) + 1):
                await asyncio.sleep(self._jitter.uniform(*_BETWEEN_CRASHES_SECONDS))
                for name in names:
                    await end(name)
                    world.supervisor.start(name)

    async def unbind(self) -> None:
        """Remove the bindings of a consumer's queue."""
        name = self._jitter.choice(list(self._world.declared))
        self._world.broker.unbind(self._work_queue(name))

    async def limit_queue(self) -> None:
        """Limit the length of a queue by a policy, for a while."""
        broker = self._world.broker
        dead = [name for name in broker.queues if name.endswith(".dead")]
        queue = self._jitter.choice([*broker.queues, *dead])
        overflow = self._jitter.choice((DROP_HEAD, REJECT_PUBLISH))
        broker.limit(queue, Policy(self._jitter.choice((1, 2, 5)), overflow))
        self._later(lambda: broker.limit(queue, None))

    async def fill_dead_queue(self) -> None:
        """Let a backlog expire while no process empties the dead queue, which a policy limits."""
        world = self._world
        dead = consumer.assembly.queues(*world.declared[ETL]).dead
        for name, role in world.plan.processes.items():
            if role == ETL:
                world.supervisor.kill(name)
        world.broker.limit(dead, Policy(1, self._jitter.choice((DROP_HEAD, REJECT_PUBLISH))))
        self._later(lambda: world.broker.limit(dead, None))
        await world.produce([self._draft() for _ in range(_BACKLOG)], Ending.COMMIT)
        await self.rest()
        world.skip(min(SKIPS))

    async def roll_out(self) -> None:
        """Replace the workers of the old version."""
        self._world.finish_rollout()

    async def purge(self) -> None:
        await self._world.purge(self._jitter.choice(list(self._world.declared)))

    async def mend(self) -> None:
        """Repair what handlers depend on, or break it again."""
        self._world.handlers.is_fixed = not self._world.handlers.is_fixed

    async def replay(self) -> None:
        """Repair what handlers depend on and replay dead letters, often with further faults."""
        self._world.handlers.is_fixed = True
        if self._jitter.random() < _BAD_DAYS:
            await self.broker_faults()
            points = [each for each in self._points() if each.startswith(f"{OPERATOR}.")]
            self._arm(points)
        await self._world.replay(self._jitter.choice([RELAY, *self._world.declared]))

    def _points(self) -> list[str]:
        return sorted(self._world.points.passed)

    def _arm(self, points: list[str]) -> None:
        if points and len(self._world.points.armed) < _MOST_STRIKES:
            point = self._jitter.choice(points)
            action = self._jitter.choice(list(FaultAction))
            self._world.points.arm(PlannedFault(point, action, self._jitter.randrange(3)))

    def _draft(self) -> Draft:
        key = self._jitter.choice(_KEYS)
        # A replayed event follows its successors, which the order of a key does not allow here.
        kinds: tuple[str, ...] = KINDS if key is None else (PLAIN, FAILS_ONCE)
        weights = (6, 3, 1, 2)[: len(kinds)]
        [kind] = self._jitter.choices(kinds, weights)
        waits = self._jitter.uniform(0, 2) if self._jitter.random() < _LATER else None
        plan = self._world.plan
        if plan.rolling and self._jitter.random() < _OLD_AND_NEW:
            kind = NEW
        if plan.delivery_limit <= _LOW_LIMIT and self._jitter.random() < _ENDS_PROCESS:
            kind = ENDS_PROCESS
        priority = self._jitter.choice(list(Priority)) if plan.priorities else Priority.NORMAL
        return Draft(self._world.an_id(), kind, key, waits, priority)

    def _anybody(self) -> str:
        return self._jitter.choice(self._world.supervisor.names)

    def _work_queue(self, name: str) -> str:
        return consumer.assembly.queues(*self._world.declared[name]).name

    def _later(self, back: Callable[[], None]) -> None:
        seconds = self._jitter.uniform(0.5, _LONGEST_AWAY_SECONDS)
        asyncio.get_running_loop().call_later(seconds, back)
