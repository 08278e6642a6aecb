"""
One run: producers, relays and consumers at work under faults, and a check of its history.

    async with FaultRun(environment, directory) as run:
        async with run.record_fault("RabbitMQ restarted"):
            await environment.rabbitmq.restart()
        await run.makes_progress()

At the end of the block the producers stop, every event has to drain, and the processes are
terminated. Then the outcomes are read, and the history is checked. Raises `FindingsError` with
the findings.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.reliability import producers, tables
from tests.reliability.checker import Finding, Guarantees, check
from tests.reliability.guarantees import FindingsError, default_guarantees
from tests.reliability.history import Drained, FaultBegan, FaultEnded, HistoryWriter, Record, read
from tests.reliability.leak_marker import PRODUCT_TABLES
from tests.reliability.leaks import logs_before, scan_logs, scan_metrics
from tests.reliability.leftovers import record_leftovers
from tests.reliability.outcomes import OutcomeReader, is_idle
from tests.reliability.producers import Load, Producers
from tests.reliability.proxies import Proxies
from tests.reliability.roles import FREE, ORDERED, RELAY, create_process
from tests.reliability.sampler import Sampler
from tests.reliability.supervisor import SupervisedProcess, Supervisor
from tests.reliability.wire_recorder import WireRecorder
from tests.support.environment import Environment
from tests.support.eventually import eventually

APPLICATION = "reliability witness"
DRAIN_SECONDS = 90.0
SETTLED_SECONDS = 0.75


class FaultRun:
    """
    Processes at work in *environment*; an async context manager, see above.

    Args:
        directory: An empty directory for logs and the history.
        relays, consumers: How many processes of the relay, and of each consumer.
        ordered: Whether the ordered consumer runs beside the free one.
        load: The load of the producers.
        drain_seconds: The longest that the drain at the end may take.
        seed: The seed of the producers' events.
        guarantees: What the checker expects; see `default_guarantees`.
        settings: Further environment variables of all processes.

    Attributes:
        supervisor: The processes, by role: RELAY, FREE, ORDERED.
        proxies: The proxies in front of both servers.
        history: Takes further records.
        guarantees: May be replaced until the block ends.

    """

    def __init__(
        self,
        environment: Environment,
        directory: Path,
        *,
        relays: int = 2,
        consumers: int = 2,
        ordered: bool = True,
        load: Load | None = None,
        drain_seconds: float = DRAIN_SECONDS,
        seed: int = 1,
        guarantees: Guarantees | None = None,
        **settings: str,
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.roles = [FREE, ORDERED] if ordered else [FREE]
        self.guarantees = guarantees or default_guarantees(*self.roles)
        self.history = HistoryWriter(directory / "history.jsonl")
        self.proxies = Proxies(environment)
        # Without a pool: its connections would be those that a server has ended meanwhile.
        self.engine = create_async_engine(
            environment.database_url,
            poolclass=sa.NullPool,
            connect_args={"server_settings": {"application_name": APPLICATION}},
        )
        self.load = load or Load()
        self.findings: list[Finding] = []
        self._seed = seed
        self._drain_seconds = drain_seconds
        self._counts = {RELAY: relays, **dict.fromkeys(self.roles, consumers)}
        self._settings = settings
        self._stack = AsyncExitStack()
        self._logs_before = logs_before(environment)

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._finish()
            else:
                error.add_note(self.tails())
        finally:
            await self._stack.aclose()
        if self.findings:
            raise FindingsError(self.findings, self.tails())

    @asynccontextmanager
    async def record_fault(self, fault: str) -> AsyncIterator[None]:
        """Record that *fault* begins, and at the end of the block that it has ended."""
        self.history.write(FaultBegan(time.time(), fault))
        try:
            yield
        finally:
            self.history.write(FaultEnded(time.time(), fault))

    async def wait(self, seconds: float) -> None:
        """Wait for *seconds* while all processes go on, for a fault that has to last."""
        await asyncio.sleep(seconds)

    async def makes_progress(self, effects: int = 50, *, within: float = 60) -> None:
        """Wait until *effects* more effects are recorded; fails after *within* seconds."""
        begin: int | None = None

        async def there_are_more() -> bool:
            nonlocal begin
            if begin is None:
                begin = await self.last_effect()
            return await self.effects_after(begin) >= effects

        await eventually(
            lambda: _answered(there_are_more),
            within=within,
            message=f"there were not {effects} effects more",
        )

    async def last_effect(self) -> int:
        """The id of the last effect, or 0."""
        return await self._asked(sa.select(sa.func.max(tables.effects.c.id)))

    async def effects_after(self, last: int) -> int:
        """How many effects have an id above *last*."""
        count = sa.select(sa.func.count()).select_from(tables.effects)
        return await self._asked(count.where(tables.effects.c.id > last))

    async def _asked(self, statement: sa.Select[Any]) -> int:
        async with self.engine.connect() as connection:
            return await connection.scalar(statement) or 0

    def tails(self) -> str:
        """The last lines of all processes."""
        return "\n".join(
            f"--- {process.name}\n{process.tail}"
            for process in self.supervisor.processes
            if process.starts
        )

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self._stack.enter_context(self.history)
        self._stack.push_async_callback(self.engine.dispose)
        async with self.engine.begin() as connection:
            await tables.create(connection)
            await connection.execute(producers.a_row_for_each_key(self.load))
        await enter(self.proxies)
        self.proxies.relay_broker.tap(WireRecorder(self._write))
        self.proxies.consumer_broker.tap(WireRecorder(self._write, counting=False))
        self.supervisor = await enter(Supervisor(self._create_process(), self._write))
        # A relay finds no queue for its events before the consumers are there.
        await self.supervisor.start(*self.roles)
        await self.supervisor.start(RELAY)
        self._sampler = Sampler(self.supervisor, self.engine, self._write)
        self._sampling = asyncio.ensure_future(self._sampler.run())
        self._stack.callback(self._sampling.cancel)
        self.producers = Producers(
            self.proxies.producer_database.url, self._write, self.load, self._seed
        )
        self._stack.push_async_callback(self.producers.stop)
        self.producers.start()

    async def _finish(self) -> None:
        if self._sampling.done():
            self._sampling.result()  # raises the error of the sampler
        await self.producers.stop()
        if await self._wait_until_drained():
            self._write(Drained(time.time()))
        await scan_metrics(self.supervisor, self._write)
        await self._sampler.look_into(*PRODUCT_TABLES)
        await self.supervisor.stop()
        scan_logs(self.environment, self.supervisor, self._logs_before, self._write)
        await record_leftovers(self.environment, self.engine, self._write)
        reader = OutcomeReader(self.environment, self.engine, self._write)
        await reader.record_outcomes(read(self.history.path))
        self.findings = check(read(self.history.path), self.guarantees)

    async def _wait_until_drained(self) -> bool:
        """Wait until no event waits any more; returns whether that came true."""

        async def still() -> bool:
            return await _answered(lambda: is_idle(self.environment, self.engine, self.roles))

        try:
            await eventually(still, within=self._drain_seconds)
            # The broker's figures are a little behind.
            await self.wait(SETTLED_SECONDS)
            await eventually(still, within=self._drain_seconds)
        except AssertionError:
            return False  # the reader records the events that wait
        return True

    def _create_process(self) -> list[SupervisedProcess]:
        return [
            create_process(role, number + 1, self.proxies, self.directory, **self._settings)
            for role, count in self._counts.items()
            for number in range(count)
        ]

    def _write(self, record: Record) -> None:
        self.history.write(record)


async def _answered(look: Callable[[], Awaitable[bool]]) -> bool:
    """The result of *look*; False if a server does not answer."""
    try:
        return await look()
    except (SQLAlchemyError, OSError):
        return False
