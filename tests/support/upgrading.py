"""
A deployment under load whose processes are of different versions.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Self

from outbox import Event, insert
from outbox.runtime.service import pause
from tests.support import rolling
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY, ChildProcess
from tests.support.rolling import ORDERED, PLAIN, Step, applied

KEYS = ("a", "b", "c")
EACH = {(kind, key) for kind in (PLAIN, ORDERED) for key in KEYS}
BETWEEN_TRANSACTIONS = timedelta(milliseconds=400)
FAILS_EVERY, REJECTED_EVERY = 7, 19
PATIENCE_SECONDS = 90.0
NO_LOCK = ("step of the migration was rolled back", "deadlock detected", "lock timeout")
CONSUMERS = ("plain", "ordered")


class Upgrade(Deployment):
    """
    The relay and two consumers; *program* is the folder of the version that starts next.

    None stands for the version under test.
    """

    def __init__(self, *arguments: Any, **settings: str) -> None:
        super().__init__(*arguments, **settings)
        self.program: Path | None = None
        self.events: list[tuple[str, Step]] = []

    async def __aenter__(self) -> Self:
        async with self.engine.begin() as connection:
            await connection.run_sync(rolling.metadata.create_all)
        return self

    async def consumers(self) -> list[ChildProcess]:
        """Start both consumers."""
        return await asyncio.gather(*map(self._consumer, CONSUMERS))

    async def ends(self, module: str, *arguments: str) -> tuple[int, str]:
        """Run a command of the program to its end; returns its exit code and its output."""
        self._started += 1
        log = self.directory / f"{module}-{self._started}.txt"
        async with self._process([sys.executable, "-m", module, *arguments], log) as child:
            code = await child.wait(within=PATIENCE_SECONDS)
            return code, child.output

    async def migrates(self, *, to: str) -> None:
        """Migrate the tables up to *to*, by the program; repeats it as long as it gets no lock."""
        await self._repeats("relay", "migrate", to)

    async def migrates_down(self, *, to: str) -> None:
        """Migrate the tables down to *to*, by the program, like `migrates`."""
        await self._repeats("alembic", "downgrade", to)

    async def _repeats(self, module: str, *arguments: str) -> None:
        async def done() -> bool:
            code, output = await self.ends(module, *arguments)
            assert code == 0 or any(words in output for words in NO_LOCK), output
            return code == 0

        await self.waits_for(done, "the tables were not migrated")

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Produce during the block: an event for each key and consumer in each transaction."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._produce(stop))
            try:
                yield
            finally:
                stop.set()

    async def makes_progress(self) -> None:
        """Wait until both consumers have applied an event of each key, committed from now on."""
        first = len(self.events) // len(EACH) + 1

        async def done() -> bool:
            rows = await self.rows(applied)
            return {(row["type"], row["key"]) for row in rows if row["step"] > first} == EACH

        await self.waits_for(done, "no event of each consumer and key was applied")

    async def waits_for(self, condition: Callable[[], Awaitable[bool]], message: str) -> None:
        """Wait for *condition*; its failure has *message* and the logs."""
        try:
            await eventually(condition, within=PATIENCE_SECONDS, message=message)
        except AssertionError as late:
            late.add_note(f"the logs of the processes end with:\n{self.logs()[-8000:]}")
            raise

    async def assert_all_applied_once_and_in_order(self) -> None:
        """Wait for the end of all events; none is lost, applied twice, or out of order."""
        wanted = [(kind, step["key"], step["step"]) for kind, step in self.applicable]
        refused = len(self.events) - len(wanted)

        async def settled() -> bool:
            return (
                await self.is_drained()
                and len(await self.rows(applied)) >= len(wanted)
                and len(await self.dead()) >= refused
            )

        await self.waits_for(settled, "not every event was applied")
        rows = sorted(await self.rows(applied), key=lambda row: row["id"])
        found = [(row["type"], row["key"], row["step"]) for row in rows]
        assert sorted(found) == sorted(wanted)
        assert {row["reason"] for row in await self.dead()} == {"unwanted_step"}
        assert len(await self.dead()) == refused
        for key in KEYS:
            of_key = (ORDERED, key)
            assert [step for kind, one, step in found if (kind, one) == of_key] == [
                step for kind, one, step in wanted if (kind, one) == of_key
            ]

    @property
    def applicable(self) -> list[tuple[str, Step]]:
        """The committed events that no handler rejects, in their order."""
        return [event for event in self.events if not event[1]["rejected"]]

    async def _consumer(self, name: str) -> ChildProcess:
        target = f"tests.support.rolling:{name}"
        return await self._start("consumer", "run", target, announces="consumer_started")

    async def _produce(self, stop: asyncio.Event) -> None:
        for step in count():
            if stop.is_set():
                return
            made = [
                (kind, self._step(key, step, salt))
                for salt, key in enumerate(KEYS)
                for kind in (PLAIN, ORDERED)
            ]
            async with self.engine.begin() as connection:
                await connection.execute(insert(*map(as_event, made)))
            self.events += made
            await pause(stop, BETWEEN_TRANSACTIONS)

    def _step(self, key: str, step: int, salt: int) -> Step:
        return {
            "key": key,
            "step": step,
            "fails": int((step + salt) % FAILS_EVERY == 0),
            "rejected": (step + salt) % REJECTED_EVERY == 0,
        }

    def _process(self, command: list[str], log: Path) -> ChildProcess:
        if self.program is None:
            return super()._process(command, log)
        env = {**self._env, "PYTHONPATH": f"{self.program}:{REPOSITORY}"}
        return ChildProcess(command, log=log, env=env, cwd=self.program)


def as_event(made: tuple[str, Step]) -> Event:
    """Return the event of a step; those of the ordered consumer have a key."""
    kind, step = made
    return Event(kind, dict(step), ordering_key=step["key"] if kind == ORDERED else None)
