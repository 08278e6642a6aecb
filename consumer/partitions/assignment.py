"""
The partitions of this process: it looks at them every second, and takes its share.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from consumer.partition_queues import PartitionQueues
from consumer.partitions.balance import Assignment, assignment, is_changing, moves
from consumer.storage.partitions import Partitions
from consumer.telemetry import Telemetry
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause

LOOK_EVERY = timedelta(milliseconds=500)
LOOK_SOON = timedelta(milliseconds=150)
"""While the number of partitions changes, keys wait for the next look."""

ANSWERS_WITHIN = timedelta(seconds=5)


class Assignments:
    """
    The assignment of the process *member*, in `now`.

    While the database is unavailable it stays as it is; another process may take its partitions
    meanwhile, which the broker then gives to one of the two.
    """

    def __init__(
        self,
        partitions: Partitions,
        queues: PartitionQueues,
        *,
        member: UUID,
        telemetry: Telemetry,
        every: timedelta = LOOK_EVERY,
    ) -> None:
        self.now = Assignment()
        self._partitions = partitions
        self._queues = queues
        self._member = member
        self._report = telemetry.partitions
        self._every = every
        self._is_changing = False
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until *stop* is set, and leave; others take the partitions at their next look."""
        while not stop.is_set():
            # `Worker` reports an unavailable database.
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
                    await self.look()
            await pause(stop, min(LOOK_SOON, self._every) if self._is_changing else self._every)
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
                await self._partitions.leave(self._member)

    async def look(self) -> None:
        """
        Take the share of this process, once.

        Raises DatabaseUnavailable.
        """
        shared = await self._partitions.share(
            self._member, lambda found: moves(found, self._member)
        )
        self._is_changing = is_changing(shared)
        found = assignment(shared, self._member, self._queues)
        if found != self.now:
            self.now = found
            self._report.assigned(len(found.partitions))
            self._changed.set()

    async def differs_from(self, known: Assignment) -> Assignment:
        """Wait until the assignment is another one than *known*, and return it."""
        while self.now == known:
            self._changed.clear()
            await self._changed.wait()
        return self.now
