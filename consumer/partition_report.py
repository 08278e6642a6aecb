"""
The partitions that this process reads, in the log and in a metric.
"""

from typing import Any

from prometheus_client import CollectorRegistry

from outbox.runtime.in_memory import Gauge


class PartitionReport:
    """Reports to *log*, and counts the partitions that this process reads."""

    def __init__(self, log: Any, registry: CollectorRegistry) -> None:
        self._log = log
        self._owned = Gauge(
            "mq_consumer_partitions",
            "Partitions of an ordered consumer that this process reads.",
            registry=registry,
        )

    def assigned(self, partitions: int) -> None:
        """From now on this process reads so many *partitions*."""
        self._owned.set(partitions)
        self._log.info("partitions_assigned", partitions=partitions)

    def drained(self, generation: int, number: int) -> None:
        """All messages of a partition that is replaced are settled."""
        self._log.info("partition_drained", generation=generation, partition=number)

    def scaled(self, *, declared: int, found: int) -> None:
        """The consumer has *found* partitions; the code begins with *declared*."""
        if declared != found:
            self._log.info("partitions_differ", declared=declared, partitions=found)
