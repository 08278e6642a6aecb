"""
Events of a consumer, written to the log and counted in metrics.

Only this module knows log keys and metric names. Labels are bounded: queues, registered event
types, reason codes, configured delays.
"""

import collections
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import assert_never

from prometheus_client import CollectorRegistry, Counter, Histogram

from consumer.verdict import CODES, DeadLetter, Done, Filtered, Parked, TryAgain, Verdict, Wait
from outbox.runtime import logs
from outbox.runtime.process import Availability

OTHER = "other"
BY_HANDLER = "rejected_by_handler"
"""The label of all reasons that handlers choose, because their number has no bound."""


class Telemetry:
    """Logs and counts events; an event type that is not *known* gets the label `other`."""

    def __init__(
        self, registry: CollectorRegistry, *, source: str, queue: str, known: Collection[str]
    ) -> None:
        self._log = logs.get("consumer")
        self._source = source
        self._queue = queue
        self._known = frozenset(known)
        self._processed = Counter(
            "mq_messages_processed",
            "Deliveries, by the way they were settled.",
            ["queue", "type", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "mq_processing_duration_seconds",
            "Duration of the calls of handlers that succeeded.",
            ["queue", "type"],
            registry=registry,
        )
        self._retries = Counter(
            "mq_retry_attempts", "Attempts that failed.", ["type"], registry=registry
        )
        self._scheduled = Counter(
            "mq_retry_scheduled",
            "Copies published to a retry queue.",
            ["type", "delay_seconds"],
            registry=registry,
        )
        self._duplicates = Counter(
            "mq_duplicate_messages",
            "Deliveries of messages that had been completed before.",
            ["type"],
            registry=registry,
        )
        self._failures = Counter(
            "mq_permanent_failures",
            "Messages that were dead-lettered.",
            ["type", "reason"],
            registry=registry,
        )
        self._batches = Counter(
            "mq_batches_failed",
            "Batches that were rolled back; each of their messages is then tried alone.",
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
        self.availability = Availability(self._log, registry)

    def handled(self, event_type: str, durations: Iterable[timedelta]) -> None:
        """Handlers have succeeded, and their effects are committed."""
        seconds = self._seconds.labels(self._queue, self._label(event_type))
        for took in durations:
            seconds.observe(took.total_seconds())

    def handler_failed(
        self, event_type: str | None, error: BaseException, *, attempt: int
    ) -> None:
        """A handler raised *error*, and its transaction was rolled back."""
        label = self._label(event_type)
        self._retries.labels(label).inc()
        self._log.warning("handler_failed", type=label, attempt=attempt, **logs.describe(error))

    def batch_failed(self, event_type: str, error: BaseException, *, size: int) -> None:
        """A batch was rolled back for *error*; each of its messages is tried alone."""
        self._batches.labels(self._label(event_type)).inc()
        self._log.warning(
            "batch_failed", type=self._label(event_type), size=size, **logs.describe(error)
        )

    def lease_lost(self, event_type: str) -> None:
        """A lease expired while the handler worked, and the handler was cancelled."""
        self._leases.labels(self._label(event_type)).inc()
        self._log.error("lease_lost", type=self._label(event_type))

    def settled(self, verdicts: Iterable[tuple[str | None, Verdict]]) -> None:
        """Deliveries were settled; each is an event type and a verdict."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for event_type, verdict in verdicts:
            label = self._label(event_type)
            counts[label, _status(verdict)] += 1
            if isinstance(verdict, TryAgain):
                self._scheduled.labels(label, f"{verdict.delay.total_seconds():g}").inc()
            elif isinstance(verdict, DeadLetter):
                self._dead_lettered(label, verdict)
        for (label, status), count in counts.items():
            self._processed.labels(self._queue, label, status).inc(count)
            if status == "duplicate":
                self._duplicates.labels(label).inc(count)
            self._log.debug("messages_settled", type=label, status=status, count=count)

    def requeued(self, event_type: str | None) -> None:
        """A message that the broker had dead-lettered was requeued into the work queue."""
        self._requeues.labels(self._label(event_type)).inc()

    def _dead_lettered(self, label: str, verdict: DeadLetter) -> None:
        code = verdict.code if verdict.code in CODES else BY_HANDLER
        self._failures.labels(label, code).inc()
        self._dead.labels(self._source, code).inc()
        self._log.error(
            "message_dead_lettered", type=label, reason=verdict.code, attempt=verdict.attempt
        )

    def started(self, **facts: str | int) -> None:
        """The consumer has started."""
        self._log.info("consumer_started", **facts)

    def purged(self, rows: int) -> None:
        """Old rows of the dedup store were deleted."""
        self._log.info("dedup_purged", rows=rows)

    def _label(self, event_type: str | None) -> str:
        return event_type if event_type is not None and event_type in self._known else OTHER


def _status(verdict: Verdict) -> str:
    match verdict:
        case Done(duplicate=duplicate):
            return "duplicate" if duplicate else "success"
        case Filtered():
            return "filtered"
        case Parked():
            return "parked"
        case TryAgain(failed=failed):
            return "retry" if failed else "early"
        case DeadLetter():
            return "failed"
        case Wait():
            return "waiting"
        case _:
            assert_never(verdict)
