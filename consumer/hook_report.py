"""
How the calls of the application's hooks have ended, in the log and in a metric.
"""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from outbox.runtime import logs


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

    def ended(self, hook: str, error: BaseException | None) -> None:
        """A call of *hook* has ended, or was dropped, with *error*."""
        outcome = _outcome(error)
        self._calls.labels(hook, outcome).inc()
        if error is not None:
            self._log.warning("hook_failed", hook=hook, outcome=outcome, **logs.describe(error))


def _outcome(error: BaseException | None) -> str:
    """The word for how a call has ended, by its *error*, in metrics."""
    match error:
        case None:
            return "succeeded"
        case TimeoutError():
            return "timed_out"
        case asyncio.QueueFull():
            return "dropped"
        case _:
            return "failed"
