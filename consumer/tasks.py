"""
The parts of a consumer's process that have a loop, and how they start and end together.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from consumer.dispatch.parked_worker import ParkedWorker
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.worker import Worker
from consumer.execution.delivery_batch import BatchExecutor
from consumer.hooks import Hooks
from consumer.maintenance.dead_letter_queue import DeadLetterQueueWorker
from consumer.maintenance.failing_sampler import FailingSampler
from consumer.maintenance.retention import Retention
from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.partitions.assignment import Assignments
from consumer.partitions.repair import PartitionRepair
from consumer.storage.durations import DurationWriter
from outbox.dead_letters.maintenance import DeadLetterMaintenance
from outbox.runtime.schema_monitor import SchemaMonitor


class Monitor(Protocol):
    """A loop that no delivery needs."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """
    The parts of a consumer's process that have a loop.

    *executor* and *settlement* are those of *worker*, for a caller that takes each step itself.
    """

    executor: BatchExecutor
    settlement: Settlement
    worker: Worker
    dead_letter_worker: DeadLetterQueueWorker
    topology_monitor: TopologyMonitor
    schema_monitor: SchemaMonitor
    parked_worker: ParkedWorker | None
    assignments: Assignments | None
    partition_repair: PartitionRepair | None
    retention: Retention
    dead_letter_maintenance: DeadLetterMaintenance
    failing_sampler: FailingSampler
    durations: DurationWriter
    hooks: Hooks

    async def run(self, stop: asyncio.Event) -> None:
        """Run all of them until *stop* is set; work in flight is finished first."""
        async with self.hooks.running(), asyncio.TaskGroup() as group:
            group.create_task(self.retention.run(stop))
            group.create_task(self.dead_letter_worker.run(stop))
            monitors: tuple[Monitor, ...] = (
                self.topology_monitor,
                self.schema_monitor,
                self.dead_letter_maintenance,
                self.failing_sampler,
            )
            if self.partition_repair is not None:
                monitors = (*monitors, self.partition_repair)
            monitoring = [group.create_task(each.run(stop)) for each in monitors]
            if self.parked_worker is not None:
                group.create_task(self.parked_worker.run(stop))
            if self.assignments is not None:
                group.create_task(self.assignments.run(stop))
            group.create_task(self.durations.run(stop))
            await self.worker.run(stop)
            # They may wait for a server that does not answer, and no delivery needs them any more.
            for task in monitoring:
                task.cancel()
        await self.durations.write()
