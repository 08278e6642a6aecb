"""
A simulated world: producers, the product's processes, an operator, and the injected faults.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import consumer.assembly
import consumer.service
import relay.service
from consumer import Consumer
from consumer.settings import ConsumerSettings
from outbox import Priority
from outbox.wire.codec import WireMessage
from tests.reliability.checker import Finding, Guarantees, check
from tests.reliability.history import (
    UNKNOWN,
    DeadLettered,
    Leftover,
    Produced,
    Published,
    Record,
)
from tests.reliability.simulation import operator, outcomes
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.database import Database
from tests.reliability.simulation.database_files import CONSUMERS, PRODUCERS, DatabaseFiles
from tests.reliability.simulation.fault_points import FaultPoints
from tests.reliability.simulation.handlers import (
    ENDS_PROCESS,
    FAILS_ALWAYS,
    NEEDS_REPAIR,
    Handlers,
)
from tests.reliability.simulation.loop import BEGINNING, SimulatedLoop
from tests.reliability.simulation.other_people import OtherPeople
from tests.reliability.simulation.plan import (
    ETL,
    LEDGER,
    OPERATOR,
    PRODUCER,
    RELAY,
    Plan,
    consumer_settings,
    relay_settings,
)
from tests.reliability.simulation.process import KilledError, Process
from tests.reliability.simulation.producer import Draft, Ending, record
from tests.reliability.simulation.supervisor import Service, Supervisor

DRAINED_WITHIN_SECONDS = 600.0
_USUAL_DELAY = (0.0005, 0.01)
_LONG_DELAY = (0.05, 0.5)
_LONG_EVERY = 50
_LONGEST_WORK = 0.05

FOR_NOTHING = frozenset({"retries_exhausted"})
"""Why the broker or the relay never give anything up, and consumers only what always fails."""
SET_ASIDE = timedelta(days=1, minutes=1)
"""For how long the relay leaves a row alone that it could not settle."""
_AMQP_PRIORITY = {Priority.LOW: 0, Priority.NORMAL: 4, Priority.HIGH: 9}
MISSED = "binding_removed"
"""The reason for which an event has not reached a consumer whose binding was removed."""


class World:
    """
    A world as *plan* describes it, on *database_files*, with the random choices of *seed*.

    Use it while a `SimulatedLoop` runs, inside of `substitutes.replaced`.
    """

    def __init__(
        self, plan: Plan, database_files: DatabaseFiles, loop: SimulatedLoop, *, seed: int
    ) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.findings: list[Finding] = []
        self.points = FaultPoints(self._note)
        self._loop = loop
        self._jitter = Random(seed)
        self.handlers = Handlers(lambda: self._jitter.uniform(0, _LONGEST_WORK))
        self.broker = Broker(
            delay=self._delay, on_publish=self._sent, has_priorities=plan.priorities
        )
        self._paths = {name: database_files.fresh(name) for name in (PRODUCERS, CONSUMERS)}
        self.databases = {
            name: Database(path, delay=self._delay) for name, path in self._paths.items()
        }
        self.other_people = OtherPeople(self._paths[PRODUCERS])
        database_files.databases = {
            str(database.path): database for database in self.databases.values()
        }
        self._relay = relay_settings(plan, database_files)
        self.declared: dict[str, tuple[Consumer, ConsumerSettings]] = {
            name: (declared, consumer_settings(plan, database_files, name))
            for name, declared in plan.declared(self.handlers).items()
        }
        self._old = plan.declared(self.handlers, is_old=True)
        self._is_rolled_out = not plan.rolling
        self._latest = BEGINNING
        self.supervisor = Supervisor(self._services(), plan.processes, self.points)
        self.handlers.end_process = self.supervisor.crash
        self._produced: dict[str, Produced] = {}
        self._kinds: dict[str, str] = {}
        self._priorities: dict[str, int] = {}
        self._published: list[Published] = []
        self._sequences: Counter[str | None] = Counter()

    def start(self) -> None:
        """Start every process."""
        for name in self.supervisor.names:
            self.supervisor.start(name)

    async def declare(self) -> None:
        """Wait until every consumer has declared its queues: earlier events are unroutable."""
        queues = [consumer.assembly.queues(*declared).name for declared in self.declared.values()]
        while not all(queue in self.broker.queues for queue in queues):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.1)

    async def produce(self, drafts: Sequence[Draft], ending: Ending) -> None:
        """Record events in one transaction with this *ending*."""
        for draft in drafts:
            self._sequences[draft.key] += 1
            id_, number = str(draft.id), self._sequences[draft.key]
            self._produced[id_] = Produced(self.now, id_, draft.key, number, UNKNOWN)
            self._kinds[id_] = draft.kind
            priority = Priority.NORMAL if draft.key is not None else draft.priority
            self._priorities[id_] = _AMQP_PRIORITY[priority]
        if (fault := ending.fault) is not None:
            self.points.arm(fault)
        outcome = await self.as_process(PRODUCER, record(self._relay, drafts, ending)) or UNKNOWN
        for draft in drafts:
            made = self._produced[str(draft.id)]
            self._produced[made.id] = Produced(self.now, made.id, made.key, made.sequence, outcome)

    async def replay(self, source: str) -> None:
        """Make an operator replay the dead letters of *source*."""
        await self.as_process(OPERATOR, operator.replay(self._side(source), self.an_id()))

    async def purge(self, name: str) -> None:
        """Make an operator purge the dedup store of a consumer."""
        await self.as_process(OPERATOR, operator.purge(*self.declared[name]))

    async def as_process(self, role: str, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of *work* in a new process; None if that was killed."""
        process = Process(role, role, self.points)
        task = process.start(work)
        try:
            return await task
        except KilledError:
            return None
        except asyncio.CancelledError:
            if process.alive:
                raise
            return None
        finally:
            process.kill()

    def an_id(self) -> UUID:
        """A new id."""
        return UUID(int=self._jitter.getrandbits(128), version=4)

    def skip(self, duration: timedelta) -> None:
        """Move the wall clock forward, or back."""
        self._latest = max(self._latest, self._loop.now)
        self._loop.skip(duration)
        self.broker.clock_jumped()

    async def insert_hostile_row(self, kind: str) -> None:
        """Make other people insert a row of this *kind* into the outbox."""
        await self.other_people.insert(kind, self.an_id())

    def finish_rollout(self) -> None:
        """Replace the workers of the old version."""
        if not self._is_rolled_out:
            self._is_rolled_out = True
            for name in (f"{ETL}-1", f"{LEDGER}-1"):
                if name in self.supervisor.names:
                    self.supervisor.kill(name)

    def heal(self) -> None:
        """End all faults, restore every server, and start every process."""
        self.points.disarm()
        self.broker.broker_faults.clear()
        self.handlers.is_fixed = True
        if self.broker.is_unavailable:
            self.broker.come_back()
        if self.broker.is_blocked:
            self.broker.unblock()
        for queue in self.broker.queues:
            self.broker.limit(queue, None)
        self.finish_rollout()
        for database in self.databases.values():
            database.come_back()
        self.start()

    async def heal_and_drain(self) -> None:
        """End all faults, and wait until every event is drained."""
        self.heal()
        await self.other_people.release()
        if self.other_people.kept:
            self.skip(SET_ASIDE)
        await self.drain()

    async def drain(self) -> None:
        """Wait until no event waits, for at most 600 s."""
        until = self.now + DRAINED_WITHIN_SECONDS
        while self.now < until:
            await asyncio.sleep(2)
            waiting = (type(each).__name__ == "Waiting" for each in self._seen())
            if not any(waiting) and not self.broker.removed_bindings:
                return

    def look(self, *, drained: bool = False) -> list[Finding]:
        """The findings now; *drained* if no event may wait any more."""
        history = self.history()
        if drained:
            history += outcomes.leases(self._paths[CONSUMERS], self.now)
            if removed := len(self.broker.removed_bindings):
                history.append(Leftover(self.now, "bindings that were not restored", removed))
        hostile = list(self.other_people.findings(history, drained=drained))
        history = self.other_people.without(history)
        failing = self._of_kinds(FAILS_ALWAYS)
        history += outcomes.effects_of_failures(history, failing, at=self.now)
        of_faults = self.plan.reasons(
            disturbances=self.disturbances, lasted=max(self._latest, self._loop.now) - BEGINNING
        )
        guarantees = Guarantees(
            consumers=frozenset(self.declared),
            ordered=frozenset({LEDGER} & set(self.declared)),
            reasons=FOR_NOTHING | of_faults | {MISSED},
            drained=drained,
            duplicates=self.plan.batch * self.disturbances,
        )
        return [
            *check(history, guarantees),
            *hostile,
            *self.other_people.neighbours(outcomes.set_aside(self._paths[PRODUCERS])),
            *self._for_nothing(history),
            *outcomes.priorities(self.broker, self._priorities),
            *outcomes.dead_lettered_unbegun(history, self.handlers),
            *self.supervisor.findings,
        ]

    def history(self) -> list[Record]:
        """The records so far."""
        return [*self._produced.values(), *self._published, *self._missed(), *self._seen()]

    def _missed(self) -> Iterator[Record]:
        names = {
            consumer.assembly.queues(*declared).name: name
            for name, declared in self.declared.items()
        }
        for queue, message in self.broker.missed:
            yield DeadLettered(self.now, names[queue], message.message_id or "", MISSED)

    def _seen(self) -> list[Record]:
        return outcomes.look(
            self.now,
            producers=self._paths[PRODUCERS],
            consumers=self._paths[CONSUMERS],
            broker=self.broker,
            declared=self.declared,
            handlers=self.handlers,
        )

    def _for_nothing(self, history: Sequence[Record]) -> list[Finding]:
        hopeless = self._of_kinds(FAILS_ALWAYS, NEEDS_REPAIR, ENDS_PROCESS)
        return outcomes.dead_lettered_without_cause(history, FOR_NOTHING, hopeless)

    def _of_kinds(self, *kinds: str) -> set[str]:
        return {id_ for id_, kind in self._kinds.items() if kind in kinds}

    def _services(self) -> dict[str, Service]:
        services: dict[str, Service] = {}
        for name, role in self.plan.processes.items():
            if role == RELAY:
                services[name] = partial(relay.service.serve, self._relay)
            else:
                services[name] = partial(self._consume, name, role)
        return services

    async def _consume(self, name: str, role: str, stop: asyncio.Event) -> None:
        declared, settings = self.declared[role]
        if not self._is_rolled_out and name == f"{role}-1":
            declared = self._old[role]
        await consumer.service.serve(declared, settings, stop)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._loop.time()

    @property
    def events(self) -> int:
        """How many events were recorded, with whatever outcome."""
        return len(self._produced)

    def _side(self, source: str) -> Any:
        if source == RELAY:
            return operator.of_relay(self._relay)
        return operator.of_consumer(*self.declared[source])

    def _delay(self) -> float:
        is_long = self._jitter.randrange(_LONG_EVERY) == 0
        return self._jitter.uniform(*(_LONG_DELAY if is_long else _USUAL_DELAY))

    @property
    def disturbances(self) -> int:
        """How many faults happened after which a batch may be published again."""
        suffered = sum(database.disturbances for database in self.databases.values())
        suffered += self.broker.disturbances + self.supervisor.kills
        return suffered + self.points.injected.total()

    def note(self, step: str) -> None:
        """Write this step to the trace."""
        self._note("", step)

    def _note(self, process: str, point: str) -> None:
        self.trace.append(f"{self.now:12.6f} {process:11} {point}")

    def _sent(self, message: WireMessage) -> None:
        if message.exchange:
            self._published.append(Published(self.now, message.message_id or ""))
