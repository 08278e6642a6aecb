"""
The events of a consumer, and what logs and metrics say of them.

Only this module knows log keys and metric names. Labels are bounded: queues, registered event
types, reason codes, configured delays.
"""

from collections.abc import Collection
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram

from consumer.verdict import Done, GiveUp, Retry, Verdict
from outbox.runtime import logs
from outbox.runtime.process import Availability

OTHER = "other"


class Telemetry:
    """What happened in this consumer; event types that are not *known* are counted as other."""

    def __init__(self, registry: CollectorRegistry, *, queue: str, known: Collection[str]) -> None:
        self._log = logs.get("consumer")
        self._queue = queue
        self._known = frozenset(known)
        self._processed = Counter(
            "mq_messages_processed",
            "Deliveries by what became of them.",
            ["queue", "type", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "mq_processing_duration_seconds",
            "How long handlers that succeeded took.",
            ["queue", "type"],
            registry=registry,
        )
        self._retries = Counter(
            "mq_retry_attempts", "Failed attempts.", ["type"], registry=registry
        )
        self._scheduled = Counter(
            "mq_retry_scheduled",
            "Messages put into a retry queue.",
            ["type", "delay_seconds"],
            registry=registry,
        )
        self._duplicates = Counter(
            "mq_duplicate_messages",
            "Deliveries of completed messages.",
            ["type"],
            registry=registry,
        )
        self._failures = Counter(
            "mq_permanent_failures", "Messages given up.", ["type", "reason"], registry=registry
        )
        self._dead = Counter(
            "mq_dead_letters",
            "Rows written to dead_letters.",
            ["source", "reason"],
            registry=registry,
        )
        self.availability = Availability(self._log, registry)

    def handled(self, event_type: str, *, took: timedelta) -> None:
        """A handler succeeded and its effects are committed."""
        self._seconds.labels(self._queue, self._label(event_type)).observe(took.total_seconds())

    def handler_failed(self, event_type: str, error: BaseException, *, attempt: int) -> None:
        """A handler raised *error*; nothing of what it did was kept."""
        self._retries.labels(self._label(event_type)).inc()
        self._log.warning(
            "handler_failed",
            type=self._label(event_type),
            attempt=attempt,
            **logs.describe(error),
        )

    def settled(self, event_type: str | None, verdict: Verdict, *, source: str) -> None:
        """A delivery was settled by *verdict*."""
        label = self._label(event_type)
        match verdict:
            case Done(duplicate=True):
                status = "duplicate"
                self._duplicates.labels(label).inc()
            case Done():
                status = "success"
            case Retry(delay=delay):
                status = "retry"
                self._scheduled.labels(label, f"{delay.total_seconds():g}").inc()
            case GiveUp(attempt=attempt, code=code):
                status = "failed"
                self._failures.labels(label, code).inc()
                self._dead.labels(source, code).inc()
                self._log.error("message_given_up", type=label, reason=code, attempt=attempt)
        self._processed.labels(self._queue, label, status).inc()
        self._log.debug("message_settled", type=label, status=status)

    def started(self, **facts: str | int) -> None:
        """The consumer works."""
        self._log.info("consumer_started", **facts)

    def purged(self, rows: int) -> None:
        """Old rows of the dedup store were deleted."""
        self._log.info("dedup_purged", rows=rows)

    def _label(self, event_type: str | None) -> str:
        return event_type if event_type is not None and event_type in self._known else OTHER
