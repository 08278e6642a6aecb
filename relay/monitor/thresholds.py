"""
From which figures on a person has to look: the settings MQ_MONITOR_*.
"""

from dataclasses import dataclass
from datetime import timedelta

from relay.settings import RelaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """
    The figures above which an alert is raised.

    Args:
        consumers: The fewest subscriptions of a work queue; 0 for none.
        memory_ratio: The share of the memory limit of a node of the broker.
        disk_free: The fewest bytes that are free on the disk of a node.
        unseen: How long a process may not have reported.

    """

    backlog: int
    age: timedelta
    dead_letters: int
    queue_messages: int
    consumers: int
    memory_ratio: float
    disk_free: int
    unseen: timedelta


def thresholds(settings: RelaySettings) -> Thresholds:
    """Return the thresholds in *settings*."""
    return Thresholds(
        backlog=settings.monitor_backlog,
        age=timedelta(seconds=settings.monitor_age_seconds),
        dead_letters=settings.monitor_dead_letters,
        queue_messages=settings.monitor_queue_messages,
        consumers=settings.monitor_consumers,
        memory_ratio=settings.monitor_memory_ratio,
        disk_free=settings.monitor_disk_free_bytes,
        unseen=timedelta(seconds=settings.monitor_unseen_seconds),
    )
