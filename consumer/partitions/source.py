"""
One subscription to the partitions of this process after another.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import uuid4

from consumer.database_retry import DatabaseRetry
from consumer.partition_marker import drain_marker
from consumer.partition_queues import PartitionQueues
from consumer.partitions.assignment import Assignments
from consumer.partitions.balance import Assigned, Assignment, Mode
from consumer.partitions.readers import Readers
from consumer.partitions.subscription import PartitionsSubscription
from consumer.storage.partitions import Partitions
from consumer.telemetry import Telemetry
from outbox.errors import BrokerUnavailable
from outbox.runtime.shield import shielded
from outbox.transports.base import Outcome, Transport

PUBLISH_WITHIN = timedelta(seconds=10)
MARK_AGAIN_EVERY = timedelta(seconds=30)
"""A marker may expire in its queue, like a message."""
MARK_AFTER_FAILURE = timedelta(seconds=1)


def partition_source(
    partitions: Partitions,
    transport: Transport,
    queues: PartitionQueues,
    *,
    database_retry: DatabaseRetry,
    telemetry: Telemetry,
) -> "PartitionSource":
    """The source of a process that shares *partitions* with others; *queues* are theirs."""
    assignments = Assignments(partitions, queues, member=uuid4(), telemetry=telemetry)
    return PartitionSource(
        transport, partitions, assignments, database_retry=database_retry, telemetry=telemetry
    )


class PartitionSource:
    """
    Subscribes to the partitions of this process, in place of a queue; *assignments* has them.

    `was_renewed` says that the last subscription ended only because this process reads other
    partitions now.
    """

    def __init__(
        self,
        transport: Transport,
        partitions: Partitions,
        assignments: Assignments,
        *,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
    ) -> None:
        self.was_renewed = False
        self.assignments = assignments
        self._transport = transport
        self._partitions = partitions
        self._database_retry = database_retry
        self._report = telemetry.partitions

    @asynccontextmanager
    async def subscribe(
        self,
        queue: str,  # noqa: ARG002 - that of a transport
        *,
        prefetch: int,
        ordered: bool = False,
    ) -> AsyncIterator[PartitionsSubscription]:
        """
        Subscribe to all partitions of this process, with *prefetch* unsettled messages of each.

        It ends once the process has to give up a partition whose messages it handles.
        Raises BrokerUnavailable.
        """
        self.was_renewed = False
        assigned = self.assignments.now
        merged = PartitionsSubscription(
            records=self,
            entrance=lambda: self.assignments.now.entrance,
            database_retry=self._database_retry,
        )
        open_one = partial(self._transport.subscribe, prefetch=prefetch, ordered=ordered)
        readers = Readers(merged, open_one)
        following = None
        try:
            await readers.add(assigned.partitions)
            following = asyncio.ensure_future(self._follow(assigned, readers))
            yield merged
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            await readers.close()

    async def is_drained(self, assigned: Assigned) -> bool:
        return await self._partitions.is_drained(assigned.generation, assigned.number)

    async def drained(self, assigned: Assigned) -> bool:
        is_drained = await self._partitions.drained(assigned.generation, assigned.number)
        if is_drained:
            self._report.drained(assigned.generation, assigned.number)
        return is_drained

    async def _follow(self, assigned: Assignment, readers: Readers) -> None:
        """Publish markers where they are due, and read what is assigned from now on."""
        while True:
            wait = await self._mark(_draining(assigned))
            try:
                async with asyncio.timeout(None if wait is None else wait.total_seconds()):
                    assigned = await self.assignments.differs_from(assigned)
            except TimeoutError:
                continue
            if not readers.may_become(assigned.partitions):
                self.was_renewed = True
                await shielded(readers.merged.stop())
                return
            readers.become(assigned.partitions)

    async def _mark(self, queues: Collection[str]) -> timedelta | None:
        """Publish a marker to each of *queues*; returns when to do it again, None for never."""
        if not queues:
            return None
        try:
            async with self._transport.publisher() as publisher:
                markers = [drain_marker(queue) for queue in queues]
                outcomes = await publisher.publish(markers, within=PUBLISH_WITHIN)
        except BrokerUnavailable:
            return MARK_AFTER_FAILURE
        has_all = set(outcomes) == {Outcome.ACKED}
        return MARK_AGAIN_EVERY if has_all else MARK_AFTER_FAILURE


def _draining(assigned: Assignment) -> list[str]:
    return [each.queue for each in assigned.partitions if each.mode is Mode.DRAIN]
