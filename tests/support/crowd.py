"""
Many persons with events, and the processes that work on them.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from outbox import Event
from outbox.consumer_tables import parked_messages
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.subjects import SubjectErased
from outbox.tables import dead_letters, outbox
from outbox.wire.row_codec import to_row
from tests.support.deployment import Deployment
from tests.support.keys import KeyStore
from tests.support.persons import REFUSED, SEEN, seen
from tests.support.processes import ChildProcess

CONSUMERS = ("ordered", "free")
RELAYS = ("relay 1", "relay 2")
BATCH = 500


def name(person: int) -> str:
    return f"patient-{person}"


@dataclass
class Crowd:
    """Persons, whose events are recorded step by step; those of *erased* may end."""

    deployment: Deployment
    store: KeyStore
    count: int
    encryptor: Encryptor
    steps: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    recorded: int = 0
    refused: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    async def record(self, events: int, kind: str = SEEN, **columns: Any) -> None:
        """Record this many events, of each person in turn; those of erased persons are refused."""
        for at in range(0, events, BATCH):
            numbers = range(at, min(at + BATCH, events))
            rows = await asyncio.to_thread(self._rows, numbers, kind, columns)
            async with self.deployment.engine.begin() as connection:
                await connection.execute(sa.insert(outbox), rows)
            self.recorded += len(numbers)

    def _rows(
        self, numbers: range, kind_of_others: str, columns: dict[str, Any]
    ) -> list[dict[str, Any]]:
        rows = []
        for number in numbers:
            person = number % self.count
            kind = REFUSED if number // self.count % 5 == 3 else kind_of_others
            try:
                rows.append(self._row(person, kind) | columns)
            except SubjectErased:
                continue
        return rows

    def _row(self, person: int, kind: str) -> dict[str, Any]:
        step = self.steps[person] + 1
        payload = {"person": person, "step": step}
        event = Event(kind, payload, subject=name(person), ordering_key=name(person))
        row = self.encryptor.encrypted(to_row(event), subject=name(person), compression="none")
        self.steps[person] = step
        if kind == REFUSED:
            self.refused[person].add(step)
        return row

    async def effects(self) -> dict[tuple[str, int], list[int]]:
        """The steps of each consumer and person, in the order of their effects."""
        found = defaultdict(list)
        for row in await self.rows(sa.select(seen).order_by(seen.c.id)):
            found[row.consumer, row.person].append(row.step)
        return found

    async def effects_of(self, chosen: Sequence[int]) -> dict[tuple[str, int], list[int]]:
        return {key: steps for key, steps in (await self.effects()).items() if key[1] in chosen}

    def expected(self, person: int) -> list[int]:
        """The steps that have an effect at each consumer."""
        last = self.steps[person]
        return [step for step in range(1, last + 1) if step not in self.refused[person]]

    async def has_seen_all(self, others: Iterable[int]) -> bool:
        expected = sum(len(self.expected(person)) for person in others)
        found = sa.select(sa.func.count()).where(seen.c.person.in_(list(others)))
        return await self.count_of(found) >= expected * len(CONSUMERS)

    async def has_parked(self) -> bool:
        return await self.count_of(sa.select(sa.func.count()).select_from(parked_messages)) > 0

    async def has_dead(self) -> bool:
        return await self.count_of(sa.select(sa.func.count()).select_from(dead_letters)) > 0

    async def is_published(self) -> bool:
        return await self.count_of(sa.select(sa.func.count()).select_from(outbox)) == 0

    async def is_empty(self) -> bool:
        return await self.is_published() and not await self.has_parked()

    async def rows(self, statement: sa.Select[Any]) -> Sequence[Any]:
        async with self.deployment.engine.connect() as connection:
            return (await connection.execute(statement)).all()

    async def count_of(self, statement: sa.Select[Any]) -> int:
        ((number,),) = await self.rows(statement)
        return int(number)


@dataclass
class Processes:
    """Relays and consumers, which are killed and started again."""

    deployment: Deployment
    running: dict[str, ChildProcess] = field(default_factory=dict)

    async def start(self, *roles: str) -> None:
        started = await asyncio.gather(*(self._start(role) for role in roles))
        self.running |= dict(zip(roles, started, strict=True))

    async def _start(self, role: str) -> ChildProcess:
        if role.startswith("relay"):
            return await self.deployment.relay()
        return await self.deployment.consumer("persons", name=role)

    @property
    def alive(self) -> set[str]:
        return {role for role, process in self.running.items() if process.running}

    def stop(self, *roles: str) -> None:
        for role in roles:
            self.running.pop(role).kill()

    async def kill_in_turn(self, jitter: random.Random) -> None:
        """Start all; kill one after another, until this task is cancelled."""
        await self.start(*CONSUMERS, *RELAYS)
        while True:
            for role in list(self.running):
                self.running[role].kill()
                await self.start(role)
                await pause(jitter.uniform(0.1, 0.5))


async def pause(seconds: float) -> None:
    """Let this time pass under load: it is part of the load, and waits for nothing."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)
