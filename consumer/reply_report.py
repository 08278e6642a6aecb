"""
Replies that a service has got, in metrics.
"""

from datetime import timedelta

from prometheus_client import CollectorRegistry

from outbox.runtime.in_memory import Counter, Histogram


class ReplyReport:
    """Counts the replies, and how long their requests have waited."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._replies = Counter(
            "mq_replies",
            "Replies that were stored for their callers, or dropped as duplicates.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "mq_request_duration_seconds",
            "Time from the recording of a request to the commit of its reply.",
            registry=registry,
        )

    def stored(self, outcome: str, *, age: timedelta) -> None:
        """A reply to a request of this *age* had this *outcome*, and that is committed."""
        self._replies.labels(outcome).inc()
        if outcome != "duplicate":
            self._seconds.observe(age.total_seconds())
