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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from outbox.runtime.engine import create_engine
from reliability import consumers, producers, tables
from reliability.checker import Finding, Promise, check
from reliability.crew import Crew, Member, environment
from reliability.history import Chronicle, Drained, Healed, Record, Struck, read
from reliability.leaks import logs_before, look_for_leaks
from reliability.producers import Load, Producers
from reliability.residue import left_behind
from reliability.site import Site
from reliability.tap import Tap
from reliability.watch import Watch
from reliability.ways import Ways
from reliability.witness import RETRIES_EXHAUSTED, Witness, is_still
from tests.support.eventually import eventually

RELAY, FREE, ORDERED = "relay", consumers.free.name, consumers.ordered.name
PROGRESS_SECONDS = 30.0
DRAIN_SECONDS = 90.0
SETTLED_SECONDS = 0.75

SETTINGS = {
    "MQ_METRICS_PORT": "0",
    "MQ_LOG_FORMAT": "json",
    "MQ_BATCH_SIZE": "100",
    "MQ_HEARTBEAT_SECONDS": "3",
    "MQ_POLL_MAX_SECONDS": "0.2",
    "MQ_PUBLISH_TIMEOUT_SECONDS": "3",
    "MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.5",
    "MQ_PUBLISH_RETRY_MAX_SECONDS": "2",
    "MQ_RECONNECT_MAX_SECONDS": "1",
    "MQ_RETRY_DELAYS": "[0.2, 1]",
}
"""Of all processes: what is found out by time is found out soon."""


class FindingsError(AssertionError):
    """A run has broken what it has promised."""

    def __init__(self, findings: Sequence[Finding], told: str) -> None:
        lines = "\n".join(f"{finding.rule}: {finding.text}" for finding in findings)
        super().__init__(f"{len(findings)} findings\n{lines}\n{told}")
        self.findings = list(findings)


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
        site: Site,
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
        self.engine = create_engine(
            make_url(site.database_url), pool_size=5, application_name="reliability witness"
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
        before = await self._effects()

        async def there_are_more() -> bool:
            return await self._effects() >= before + effects

        await eventually(there_are_more, within=within, message=f"no {effects} effects more")

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
        self.crew = await enter(Crew(self._members(), self._write))
        # A relay finds no queue for its events before the consumers are there.
        await self.crew.start(*self.roles)
        await self.crew.start(RELAY)
        watching = asyncio.ensure_future(Watch(self.crew, self.engine, self._write).run())
        self._stack.callback(watching.cancel)
        self.producers = Producers(
            self.ways.producer_database.url, self._write, self.load, self._seed
        )
        self._stack.push_async_callback(self.producers.stop)
        self.producers.start()

    async def _finish(self) -> None:
        await self.producers.stop()
        await self._drains()
        self._write(Drained(time.time()))
        await look_for_leaks(self.site, self.crew, self._logs_before, self._write)
        await self.crew.stop()
        await left_behind(self.site, self.engine, self._write)
        witness = Witness(self.site, self.engine, self._write)
        await witness.tell(read(self.chronicle.path))
        self.findings = check(read(self.chronicle.path), self.promise)

    async def _drains(self) -> None:
        """Wait until nothing waits any more; what does so at the end of our patience is found."""

        async def still() -> bool:
            return await _answered(lambda: is_still(self.site, self.engine, self.roles))

        try:
            await eventually(still, within=self._drain_seconds)
            # The broker's figures are a little behind.
            await self.lasts(SETTLED_SECONDS)
            await eventually(still, within=self._drain_seconds)
        except AssertionError:
            return

    async def _effects(self) -> int:
        async with self.engine.connect() as connection:
            return (
                await connection.scalar(sa.select(sa.func.count()).select_from(tables.effects))
                or 0
            )

    def _members(self) -> list[Member]:
        return [
            self._member(role, number + 1)
            for role, count in self._counts.items()
            for number in range(count)
        ]

    def _member(self, role: str, number: int) -> Member:
        is_relay = role == RELAY
        ways = self.ways
        env = environment(
            **SETTINGS,
            MQ_DATABASE_URL=(ways.relay_database if is_relay else ways.consumer_database).url,
            MQ_BROKER_URL=(ways.relay_broker if is_relay else ways.consumer_broker).url,
            **{consumers.DIRECTORY: str(self.directory)},
            **self._settings,
        )
        command = ["relay", "run"]
        if not is_relay:
            command = ["consumer", "run", f"{consumers.__name__}:{role}"]
        return Member(
            role,
            number,
            command,
            announces=f"{command[0]}_started",
            directory=self.directory,
            env=env,
        )

    def _write(self, record: Record) -> None:
        self.chronicle.write(record)


def promised(*consumers: str, duplicates: int | None = None) -> Promise:
    """What every run promises, and that there are no more than so many *duplicates*."""
    return Promise(
        consumers=frozenset(consumers),
        ordered=frozenset(consumers) & {ORDERED},
        reasons=frozenset({RETRIES_EXHAUSTED}),
        duplicates=duplicates,
        progress_seconds=PROGRESS_SECONDS,
    )


async def _answered(look: Callable[[], Awaitable[bool]]) -> bool:
    """What *look* finds; no, if a server does not answer."""
    try:
        return await look()
    except (SQLAlchemyError, OSError):
        return False
