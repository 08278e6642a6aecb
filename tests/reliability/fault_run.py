"""
One run: producers, relays and consumers at work while faults strike, and a judgement at the end.

    async with Course(site, directory) as course:
        async with course.strike("RabbitMQ restarted"):
            await site.rabbitmq.restart()
        await course.goes_on()

At the end of the block producers rest, everything has to drain, processes are asked to end, what
is left is collected, and the history is checked. `FindingsError` says what is wrong.
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
from tests.reliability.checker import Finding, Promise, check
from tests.reliability.guarantees import FindingsError, promised
from tests.reliability.history import Chronicle, Drained, Healed, Record, Struck, read
from tests.reliability.leak_marker import PRODUCT_TABLES
from tests.reliability.leaks import logs_before, look_into_logs, look_into_metrics
from tests.reliability.leftovers import left_behind
from tests.reliability.outcomes import Witness, is_still
from tests.reliability.producers import Load, Producers
from tests.reliability.proxies import Ways
from tests.reliability.roles import FREE, ORDERED, RELAY, cast
from tests.reliability.sampler import Watch
from tests.reliability.supervisor import Crew, Member
from tests.reliability.wire_recorder import Tap
from tests.support.environment import Environment
from tests.support.eventually import eventually

APPLICATION = "reliability witness"
DRAIN_SECONDS = 90.0
SETTLED_SECONDS = 0.75


class Course:
    """
    Processes at work on *site*, to be used in `async with`; see above.

    Args:
        directory: For logs and the history; empty.
        relays, consumers: How many processes of the relay, and of each consumer.
        ordered: Whether there is an ordered consumer beside the one that is not.
        load: What producers do.
        drain_seconds: How long everything may take to drain at the end.
        seed: From which their events are drawn.
        promise: What is checked, besides what `Promise` says always; see `promised`.
        settings: Further environment variables of all processes.

    Attributes:
        crew: Its processes, by role: RELAY, FREE, ORDERED.
        ways: The proxies in front of both servers.
        chronicle: Where further records may be written to.
        promise: May be replaced until the block ends.

    """

    def __init__(
        self,
        site: Environment,
        directory: Path,
        *,
        relays: int = 2,
        consumers: int = 2,
        ordered: bool = True,
        load: Load | None = None,
        drain_seconds: float = DRAIN_SECONDS,
        seed: int = 1,
        promise: Promise | None = None,
        **settings: str,
    ) -> None:
        self.site = site
        self.directory = directory
        self.roles = [FREE, ORDERED] if ordered else [FREE]
        self.promise = promise or promised(*self.roles)
        self.chronicle = Chronicle(directory / "history.jsonl")
        self.ways = Ways(site)
        # Without a pool: its connections would be those that a server has ended meanwhile.
        self.engine = create_async_engine(
            site.database_url,
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
        self._logs_before = logs_before(site)

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
    async def strike(self, fault: str) -> AsyncIterator[None]:
        """Write down that *fault* strikes, and at the end of the block that it is healed."""
        self.chronicle.write(Struck(time.time(), fault))
        try:
            yield
        finally:
            self.chronicle.write(Healed(time.time(), fault))

    async def lasts(self, seconds: float) -> None:
        """Let time pass for a fault that has to last, while everybody goes on."""
        await asyncio.sleep(seconds)

    async def goes_on(self, effects: int = 50, *, within: float = 60) -> None:
        """Wait until there are so many *effects* more, within so many seconds."""
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
        """How many effects there are behind the one with the id *last*."""
        count = sa.select(sa.func.count()).select_from(tables.effects)
        return await self._asked(count.where(tables.effects.c.id > last))

    async def _asked(self, statement: sa.Select[Any]) -> int:
        async with self.engine.connect() as connection:
            return await connection.scalar(statement) or 0

    def tails(self) -> str:
        """The last lines of all processes."""
        return "\n".join(
            f"--- {member.name}\n{member.tail}" for member in self.crew.members if member.starts
        )

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self._stack.enter_context(self.chronicle)
        self._stack.push_async_callback(self.engine.dispose)
        async with self.engine.begin() as connection:
            await tables.create(connection)
            await connection.execute(producers.a_row_for_each_key(self.load))
        await enter(self.ways)
        self.ways.relay_broker.tap(Tap(self._write))
        self.ways.consumer_broker.tap(Tap(self._write, counting=False))
        self.crew = await enter(Crew(self._cast(), self._write))
        # A relay finds no queue for its events before the consumers are there.
        await self.crew.start(*self.roles)
        await self.crew.start(RELAY)
        self._watch = Watch(self.crew, self.engine, self._write)
        self._watching = asyncio.ensure_future(self._watch.run())
        self._stack.callback(self._watching.cancel)
        self.producers = Producers(
            self.ways.producer_database.url, self._write, self.load, self._seed
        )
        self._stack.push_async_callback(self.producers.stop)
        self.producers.start()

    async def _finish(self) -> None:
        if self._watching.done():
            self._watching.result()  # or else nobody would hear that it has failed
        await self.producers.stop()
        if await self._drains():
            self._write(Drained(time.time()))
        await look_into_metrics(self.crew, self._write)
        await self._watch.look_into(*PRODUCT_TABLES)
        await self.crew.stop()
        look_into_logs(self.site, self.crew, self._logs_before, self._write)
        await left_behind(self.site, self.engine, self._write)
        witness = Witness(self.site, self.engine, self._write)
        await witness.tell(read(self.chronicle.path))
        self.findings = check(read(self.chronicle.path), self.promise)

    async def _drains(self) -> bool:
        """Wait until nothing waits any more; returns whether that came true."""

        async def still() -> bool:
            return await _answered(lambda: is_still(self.site, self.engine, self.roles))

        try:
            await eventually(still, within=self._drain_seconds)
            # The broker's figures are a little behind.
            await self.lasts(SETTLED_SECONDS)
            await eventually(still, within=self._drain_seconds)
        except AssertionError:
            return False  # the witness finds what waits
        return True

    def _cast(self) -> list[Member]:
        return [
            cast(role, number + 1, self.ways, self.directory, **self._settings)
            for role, count in self._counts.items()
            for number in range(count)
        ]

    def _write(self, record: Record) -> None:
        self.chronicle.write(record)


async def _answered(look: Callable[[], Awaitable[bool]]) -> bool:
    """What *look* finds; no, if a server does not answer."""
    try:
        return await look()
    except (SQLAlchemyError, OSError):
        return False
