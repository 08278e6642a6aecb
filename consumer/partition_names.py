"""
Names of the queues of partitions.
"""

import re

_PARTITION = re.compile(r"\.g[0-9]+\.[0-9]+")


def partition_queue(queue: str, generation: int, number: int) -> str:
    """Name of a partition of *queue*; generation 0 is the queue itself."""
    return f"{queue}.g{generation}.{number}" if generation else queue


def is_queue_or_partition(name: object, queue: str) -> bool:
    """Whether *name* is *queue*, or a partition of it."""
    if not isinstance(name, str) or not name.startswith(queue):
        return False
    return name == queue or _PARTITION.fullmatch(name.removeprefix(queue)) is not None
