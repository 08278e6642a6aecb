"""
Asks database and broker for a reading. Every question is read only and has a deadline.

Figures that change slowly, or that are a burden to count, are asked for once in `SLOWLY`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.consumer_tables import failing_messages
from outbox.database import migrate, privileges, processes, row_access
from outbox.database.errors import with_deadline
from outbox.database.privileges import Rights
from outbox.dead_letters.source import reading as reading_transaction
from outbox.errors import BrokerUnavailable, ConfigurationError, Unavailable
from outbox.tables import dead_letters, outbox, outbox_processes, outbox_targets
from outbox.transports.base import QueueDepth, Transport
from outbox.transports.management import Management
from relay.monitor.queue_family import usual_names
from relay.monitor.reading import (
    BrokerReading,
    DatabaseReading,
    Problem,
    Reading,
    RecordedQueues,
)
from relay.storage import overview
from relay.storage.base import OutboxStore
from relay.storage.overview import FailingCount, SourceCount
from relay.storage.settlement import SOURCE

_READ = (outbox, dead_letters, outbox_processes, outbox_targets, failing_messages)
RIGHTS: Rights = dict.fromkeys(_READ, ("SELECT",))
ANSWERS_WITHIN = timedelta(seconds=10)
SLOWLY = timedelta(seconds=10)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Slow:
    dead_letters: Sequence[SourceCount]
    failing: Sequence[FailingCount]
    targets: dict[str, str]


class _Kept(Generic[Value]):
    """The last answer to a question, until it is older than `SLOWLY`."""

    def __init__(self, ask: Callable[[], Awaitable[Value]]) -> None:
        self._ask = ask
        self._answer: tuple[float, Value] | None = None

    async def get(self) -> Value:
        now = time.monotonic()
        if self._answer is None or now - self._answer[0] >= SLOWLY.total_seconds():
            self._answer = now, await self._ask()
        return self._answer[1]


class Reader:
    """
    Reads the outbox in the database of *engine*, through *store*, and the broker.

    The broker is asked through *management*; without it, through *transport* for the queues that
    the database knows.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: OutboxStore,
        *,
        transport: Transport,
        management: Management | None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._transport = transport
        self._management = management
        self._verified = False
        self._targets: dict[str, str] = {}
        self._slow = _Kept(self._read_slowly)
        self._depths = _Kept(self._read_depths)

    async def read(self) -> Reading:
        """Ask both servers; raises no error of theirs."""
        database = await self._try(self._read_database())
        broker = await self._try(self._read_broker())
        return Reading(at=time.monotonic(), database=database, broker=broker)

    @staticmethod
    async def _try(answer: Awaitable[Value]) -> Value | Problem:
        try:
            return await answer
        except ConfigurationError as error:
            return Problem(_one_line(error), refused=True)
        except Unavailable as error:
            return Problem(_one_line(error), refused=error.refused)

    async def _read_database(self) -> DatabaseReading:
        if not self._verified:
            await migrate.verify(self._engine)
            await privileges.verify(self._engine, RIGHTS)
            await row_access.verify(self._engine, RIGHTS)
            self._verified = True
        backlog = await self._store.backlog()
        async with with_deadline(ANSWERS_WITHIN):
            slow = await self._slow.get()
            async with reading_transaction(self._engine) as connection:
                registered = await processes.registered(connection)
        return DatabaseReading(
            backlog=backlog,
            processes=registered,
            dead_letters=slow.dead_letters,
            failing=slow.failing,
            targets=slow.targets,
        )

    async def _read_slowly(self) -> _Slow:
        async with reading_transaction(self._engine) as connection:
            self._targets = await overview.targets(connection)
            letters = await overview.dead_letter_counts(connection)
            failing = await overview.failing_counts(connection)
        return _Slow(letters, failing, self._targets)

    async def _read_broker(self) -> BrokerReading:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
                if self._management is not None:
                    return await self._management.figures()
                return RecordedQueues(await self._depths.get())
        except TimeoutError:
            raise BrokerUnavailable("the broker: no answer in time") from None

    async def _read_depths(self) -> dict[str, QueueDepth | None]:
        """
        Ask for the usual queues of the consumers that the database knows.

        It connects even if there are none, so that an unreachable broker is noticed.
        """
        recorded = [target for source, target in self._targets.items() if source != SOURCE]
        depths: dict[str, QueueDepth | None] = {}
        for work_queue in recorded or [""]:
            for name in usual_names(work_queue) if work_queue else [NO_QUEUE]:
                depths[name] = await self._transport.depth(name)
        depths.pop(NO_QUEUE, None)
        return depths


NO_QUEUE = "outbox.monitor.no-queue"
"""A name that no queue has."""


def _one_line(error: Exception) -> str:
    return "; ".join(str(error).splitlines())
