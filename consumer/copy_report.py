"""
Copies that a queue does not take, in the log, in a metric, and in the readiness of the process.
"""

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from outbox.runtime.in_memory import Counter
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome

COPIES = "copies"
"""The word in /readyz while a queue takes no copies."""


class CopyReport:
    """Counts the copies that were not taken; *health* is not ready meanwhile."""

    def __init__(self, log: Any, registry: CollectorRegistry, health: Health) -> None:
        self._log = log
        self._health = health
        self._untaken: collections.Counter[str] = collections.Counter()
        self._not_taken = Counter(
            "mq_copies_not_taken",
            "Publishes of copies, for a retry or a requeue, that the broker did not take.",
            ["outcome"],
            registry=registry,
        )

    @contextmanager
    def copy(self, queue: str) -> Iterator[Callable[[Outcome], None]]:
        """
        A copy is published to *queue* until it takes it; gives a function that counts a failure.

        The message of such a copy keeps its slot in the process, so a few of them stop all others.
        """
        is_untaken = False

        def not_taken(outcome: Outcome) -> None:
            nonlocal is_untaken
            self._not_taken.labels(outcome.value).inc()
            if not is_untaken:
                is_untaken = True
                self._untaken[queue] += 1
                self._health.down(COPIES)
                if self._untaken[queue] == 1:
                    self._log.warning("copy_not_taken", queue=queue, reason=outcome.value)

        try:
            yield not_taken
        finally:
            self._untaken[queue] -= is_untaken
            if is_untaken and not self._untaken.total():
                self._health.up(COPIES)
