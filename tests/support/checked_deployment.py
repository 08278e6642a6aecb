"""
A deployment under load: a test injects faults, and the checker judges the history of events.

The producer records what it committed, and the outcomes are read from the tables at the end: no
record of the history comes from the processes under test.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

import outbox
from outbox.database.errors import reason_of
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause
from outbox.tables import outbox as outbox_table
from tests.reliability.checker import Guarantees, check
from tests.reliability.history import COMMITTED, FaultBegan, FaultEnded, Produced, Record
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.deployment import Deployment
from tests.support.effects import consumer, effects
from tests.support.eventually import eventually
from tests.support.outcomes import STAMPED, has_times, read_outcomes
from tests.support.processes import ChildProcess

CONSUMER = "tests.support.effects:consumer"
QUEUE = "health_data_processing.effects"
PER_TRANSACTION = 5
BETWEEN_TRANSACTIONS = timedelta(milliseconds=20)
FAILS_ONCE_EVERY = 25
PATIENCE_SECONDS = 90.0
TAIL = 6_000

_OLDEST = sa.text(
    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)"
    " FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'relay%'"
    # While it is notified, an idle session seems to be in a transaction as old as its last
    # statement: findings/postgresql-idle-listener-transaction.sh.
    " AND state <> 'idle'"
)


class CheckedDeployment(Deployment):
    """
    The relay and the consumer `effects` as processes; an async context manager.

    Args:
        preload: Environment variables for a preloaded library; the programs then start without the
            fork server.

    """

    def __init__(
        self, *arguments: Any, preload: Mapping[str, str] | None = None, **settings: str
    ) -> None:
        super().__init__(
            *arguments,
            **{
                "MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.2",
                "MQ_PUBLISH_RETRY_MAX_SECONDS": "1",
                **settings,
            },
        )
        self._preload = preload
        self.processes: list[ChildProcess] = []
        self.history: list[Record] = []
        self.last_error = ""  # the reason of the producer's last failed commit
        self._produced = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if has_times(self):
            async with self.engine.begin() as connection:
                await connection.execute(STAMPED)
        return self

    async def start_processes(self) -> tuple[ChildProcess, ChildProcess]:
        """Start one relay and one consumer."""
        # The consumer starts first, so that a queue exists for the first event.
        consuming = await self.consumer()
        return await self.relay(), consuming

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Produce during the block, which begins once the first events were applied."""
        async with self.producing():
            await self.makes_progress()
            yield

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Produce during the block, even while no process publishes or consumes."""
        stop = asyncio.Event()
        producing = asyncio.create_task(self._produce(stop))
        try:
            yield
        finally:
            stop.set()
            await producing

    @contextmanager
    def record_fault(self, fault: str) -> Iterator[None]:
        """Record when *fault* begins and when it ends."""
        self.history.append(FaultBegan(time.time(), fault))
        yield
        self.history.append(FaultEnded(time.time(), fault))

    @asynccontextmanager
    async def survives(self, fault: str, **guarantees: Any) -> AsyncIterator[None]:
        """
        Produce while the block injects *fault* and ends it; then check the guarantees.

        Waits in between until events are applied again, and until none is left.
        """
        async with self.under_load():
            with self.record_fault(fault):
                yield
            await self.makes_progress()
        await self.wait_until_settled()
        await self.check_guarantees(**guarantees)

    async def produce(self, count: int) -> None:
        """Commit *count* events; each commit is known to have succeeded."""
        for _ in range(count // PER_TRANSACTION):
            await self._commit()

    def record_committed(self, events: Iterable[outbox.Event]) -> None:
        """Record that *events* were committed."""
        now = time.time()
        self.history += [Produced(now, str(event.id), None, 0, COMMITTED) for event in events]

    async def makes_progress(self, *, by: int = 50, within: float = PATIENCE_SECONDS) -> None:
        """Wait until *by* more events were applied."""
        goal = await self.count(effects) + by
        await self._wait_for(lambda: self._has_effects(goal), within, f"fewer than {goal} effects")

    async def wait_for_publish_error(self, error: str, *, within: float = 30) -> None:
        """Wait until a row of the outbox has *error* as its last error."""

        async def has_come() -> bool:
            return error in {row["last_error"] for row in await self.rows(outbox_table)}

        await self._wait_for(has_come, within, f"no event was {error}")

    async def assert_outbox_stays(self, *, count: int, during: float = 5) -> None:
        """Fail unless the outbox has exactly *count* events for *during* seconds."""
        clock = asyncio.get_running_loop().time
        end = clock() + during

        async def is_over() -> bool:
            assert await self.count(outbox_table) == count
            return clock() > end

        await eventually(is_over, within=during + 10)

    async def wait(self, seconds: float) -> None:
        """Return after *seconds*, while the processes keep working."""
        await pause(asyncio.Event(), timedelta(seconds=seconds))

    async def wait_for_outbox(self, count: int) -> None:
        """Wait until the outbox has at least *count* events."""

        async def are_there() -> bool:
            return await self.count(outbox_table) >= count

        await self._wait_for(are_there, PATIENCE_SECONDS, f"fewer than {count} events")

    async def wait_until_settled(
        self, *, but_for: int = 0, within: float = PATIENCE_SECONDS
    ) -> None:
        """
        Wait until every committed event but *but_for* was applied, and the outbox is empty.
        """
        await self._wait_for(
            lambda: self._is_settled(but_for), within, "not every event was applied"
        )

    async def stop_processes(self) -> None:
        """Stop all processes; fails if one has ended before."""
        while self.processes:
            process = self.processes.pop()
            assert process.running, f"the process ended by itself:\n{process.tail}"
            assert await process.terminate(within=40) == 0

    def expect_ended(self, process: ChildProcess) -> None:
        """Expect that *process* has ended, and do not stop it again."""
        assert not process.running
        self.processes.remove(process)

    async def check_guarantees(self, **guarantees: Any) -> list[Record]:
        """Stop all processes, check the history and return it; fails with the findings."""
        await self.stop_processes()
        history = [*self.history, *await read_outcomes(self)]
        findings = check(history, Guarantees(consumers=frozenset({consumer.name}), **guarantees))
        assert not findings, f"{findings}\n{self.logs()[-TAIL:]}"
        return history

    async def count(self, table: sa.Table) -> int:
        """How many rows *table* has; waits until the database answers."""
        found: int = (await self._first(sa.select(sa.func.count()).select_from(table)))[0]
        return found

    async def oldest_transaction(self) -> float:
        """The age of the oldest transaction of a relay, in seconds."""
        return float((await self._first(_OLDEST))[0])

    async def _start(self, module: str, *arguments: str, announces: str) -> ChildProcess:
        child = await super()._start(module, *arguments, announces=announces)
        self.processes.append(child)
        return child

    def _process(self, command: list[str], log: Path) -> ChildProcess:
        if self._preload is None:
            return super()._process(command, log)
        return ChildProcess(command, log=log, env={**self._env, **self._preload})

    async def _produce(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._commit()
            await pause(stop, BETWEEN_TRANSACTIONS)

    async def _commit(self) -> None:
        """Commit some events; repeats the commit with the same ids until its success is known."""
        events = [self._an_event() for _ in range(PER_TRANSACTION)]
        await eventually(lambda: self._is_committed(events), within=PATIENCE_SECONDS)
        self.record_committed(events)

    def _an_event(self) -> outbox.Event:
        self._produced += 1
        kind = "test.happened" if self._produced % FAILS_ONCE_EVERY else "test.fails.once"
        return an_event(type=kind, payload={"note": LEAK_MARKER})

    async def _is_committed(self, events: list[outbox.Event]) -> bool:
        try:
            async with self.engine.begin() as connection:
                await connection.execute(outbox.insert(*events))
        except DBAPIError as error:
            self.last_error = reason_of(error)
            # The ids are unique: this error shows that an earlier commit succeeded.
            return "event_id" in str(error.orig)
        except (OSError, TimeoutError, asyncpg.PostgresError, DatabaseUnavailable) as error:
            self.last_error = reason_of(error)
            return False
        return True

    async def _has_effects(self, goal: int) -> bool:
        return await self.count(effects) >= goal

    async def _is_settled(self, but_for: int) -> bool:
        produced = sum(isinstance(record, Produced) for record in self.history) - but_for
        if await self.count(outbox_table) or await self.count(effects) < produced:
            return False
        return len(set(await self.applied())) >= produced

    async def _wait_for(self, condition: Any, within: float, message: str) -> None:
        try:
            await eventually(condition, within=within, message=message)
        except AssertionError as late:
            late.add_note(f"the logs of the processes end with:\n{self.logs()[-TAIL:]}")
            raise

    async def _first(self, statement: Any) -> Any:
        """The first row of the result; waits until the database answers."""

        async def answer() -> Any:
            try:
                async with self.engine.connect() as connection:
                    return (await connection.execute(statement)).one()
            except (DBAPIError, OSError, asyncpg.PostgresError, DatabaseUnavailable):
                return None

        return await eventually(answer, within=60, message="the database does not answer")
