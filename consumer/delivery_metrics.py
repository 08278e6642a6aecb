"""
Metrics of deliveries, by the way they were settled. Their labels are bounded by the caller.
"""

from datetime import timedelta

from prometheus_client import CollectorRegistry

from outbox.runtime.in_memory import Counter, Histogram


class DeliveryMetrics:
    """Counts the deliveries of *queue*; *source* is the consumer in its dead letters."""

    def __init__(self, registry: CollectorRegistry, *, source: str, queue: str) -> None:
        self._source = source
        self._queue = queue
        self._processed = Counter(
            "mq_messages_processed",
            "Deliveries, by the way they were settled.",
            ["queue", "type", "record_type", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "mq_processing_duration_seconds",
            "Duration of the calls of handlers that succeeded; of a list, for each message.",
            ["queue", "type", "record_type"],
            registry=registry,
        )
        self._scheduled = Counter(
            "mq_retry_scheduled",
            "Copies published to a retry queue.",
            ["type", "record_type", "delay_seconds"],
            registry=registry,
        )
        self._duplicates = Counter(
            "mq_duplicate_messages",
            "Deliveries of messages that had been completed before.",
            ["type", "record_type"],
            registry=registry,
        )
        self._failures = Counter(
            "mq_permanent_failures",
            "Messages that were dead-lettered.",
            ["type", "record_type", "reason"],
            registry=registry,
        )
        self._batches = Counter(
            "mq_batches_failed",
            "Rolled back batches; their messages are then tried alone, or in smaller ones.",
            ["type"],
            registry=registry,
        )
        self._leases = Counter(
            "mq_leases_lost",
            "Leases that ended before their handler did.",
            ["type"],
            registry=registry,
        )
        self._requeues = Counter(
            "mq_requeued",
            "Messages that the broker had dead-lettered and the consumer requeued.",
            ["type"],
            registry=registry,
        )
        self._dead = Counter(
            "mq_dead_letters",
            "Rows written to dead_letters.",
            ["source", "reason"],
            registry=registry,
        )

    def seconds(self, label: str, record_type: str) -> Histogram:
        """The durations of the calls for messages of this kind."""
        return self._seconds.labels(self._queue, label, record_type)

    def settled(self, label: str, record_type: str, *, status: str, count: int) -> None:
        """So many deliveries of this kind ended with *status*."""
        self._processed.labels(self._queue, label, record_type, status).inc(count)
        if status == "duplicate":
            self._duplicates.labels(label, record_type).inc(count)

    def retry_scheduled(self, label: str, record_type: str, *, delay: timedelta) -> None:
        """A copy of a message of this kind waits for *delay* in a retry queue."""
        self._scheduled.labels(label, record_type, f"{delay.total_seconds():g}").inc()

    def dead_lettered(self, label: str, record_type: str, *, reason: str) -> None:
        """A message of this kind was dead-lettered for *reason*, of which there are few."""
        self._failures.labels(label, record_type, reason).inc()
        self._dead.labels(self._source, reason).inc()

    def batch_failed(self, label: str) -> None:
        """A batch of messages whose type has this *label* was rolled back."""
        self._batches.labels(label).inc()

    def lease_lost(self, label: str) -> None:
        """A lease on a message whose type has this *label* ended before its handler did."""
        self._leases.labels(label).inc()

    def requeued(self, label: str) -> None:
        """A message whose type has this *label* went back to the work queue."""
        self._requeues.labels(label).inc()
