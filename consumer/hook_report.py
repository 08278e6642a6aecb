"""
How the calls of the application's hooks have ended, in the log and in a metric.
"""

from typing import Any

from prometheus_client import CollectorRegistry

from consumer.hooks import HookOutcome
from outbox.runtime import logs
from outbox.runtime.in_memory import Counter


class HookReport:
    """Counts the calls of hooks, and logs those that have failed."""

    def __init__(self, log: Any, registry: CollectorRegistry) -> None:
        self._log = log
        self._calls = Counter(
            "mq_hooks",
            "Calls of the application's hooks, by the way they ended; `dropped` were not made.",
            ["hook", "outcome"],
            registry=registry,
        )

    def ended(self, hook: str, outcome: HookOutcome, error: BaseException | None) -> None:
        """A call of *hook* has ended with this *outcome*; *error* is that of one that failed."""
        self._calls.labels(hook, outcome.value).inc()
        if outcome is not HookOutcome.SUCCEEDED:
            described = {} if error is None else logs.describe(error)
            self._log.warning("hook_failed", hook=hook, outcome=outcome.value, **described)
