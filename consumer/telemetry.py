"""
Events of a consumer, written to the log and counted in metrics.

Only this module knows log keys and metric names. Labels are bounded: queues, registered event
types, configured record types, reason codes, configured delays.
"""

import collections
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from consumer.copy_report import CopyReport
from consumer.failure_metrics import OTHER, FailureMetrics
from consumer.hook_report import HookReport
from consumer.hooks import DeadLettered, Failure, HookFunction, Hooks
from consumer.lag_report import LagReport
from consumer.log_fields import ids_of
from consumer.message import Message
from consumer.message_copies import first_routing_key
from consumer.verdict import CODES, DeadLetter, TryAgain, Verdict, status_of
from outbox.dead_letters.report import DeadLetterReport
from outbox.errors import DatabaseUnavailable
from outbox.runtime import logs
from outbox.runtime.certificate_metrics import CertificateMetrics
from outbox.runtime.error_summary import ErrorSummary
from outbox.runtime.figures import Figures
from outbox.runtime.in_memory import Counter, Histogram
from outbox.runtime.probes import Health
from outbox.runtime.process import Availability
from outbox.runtime.record_types import RecordTypes
from outbox.runtime.topology_report import TopologyReport
from outbox.wire.codec import WireMessage

BY_HANDLER = "rejected_by_handler"
"""The label of all reasons that handlers choose, because their number has no bound."""


class Telemetry:
    """
    Logs and counts events; an event type that is not *known* gets the label `other`.

    *health* is not ready while a queue takes no copies.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        source: str,
        queue: str,
        known: Collection[str],
        health: Health | None = None,
        record_types: Collection[str] = (),
    ) -> None:
        self._log = logs.get("consumer")
        self._registry = registry
        self._source = source
        self._queue = queue
        self._known = frozenset(known)
        self._record_types = RecordTypes(record_types)
        self._has_unsupported = False
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
        self.availability = Availability(self._log, registry)
        self.dead_letters = DeadLetterReport(
            registry, source=source, codes=CODES, other=BY_HANDLER
        )
        CertificateMetrics(registry)
        self._attempts = FailureMetrics(registry, self._known)
        self.copy = CopyReport(self._log, registry, health or Health()).copy
        self._hook_report = HookReport(self._log, registry)
        self.hooks = Hooks()
        self.trace_settled: Callable[[WireMessage, TryAgain | DeadLetter], None] = lambda *_: None
        self.lag = LagReport(registry)
        self.figures = Figures(began=time.monotonic(), lags=self.lag.histograms)

    def call_hooks(
        self, on_failure: Sequence[HookFunction], on_dead_letter: Sequence[HookFunction]
    ) -> Hooks:
        """The hooks that get the failures and dead letters from now on."""
        self.hooks = Hooks(on_failure, on_dead_letter, ended=self._hook_report.ended)
        return self.hooks

    def handled(
        self,
        event_type: str,
        durations: Mapping[str, timedelta],
        routing_keys: Mapping[str, str],
    ) -> None:
        """
        Handlers have succeeded, and their effects are committed.

        *durations* and *routing_keys* of the messages are by idempotency key.
        """
        label = self._label(event_type)
        of_key: dict[str, Histogram] = {}
        for key, took in durations.items():
            routing_key = routing_keys[key]
            seconds = of_key.get(routing_key)
            if seconds is None:
                record_type = self._record_types.label(routing_key)
                seconds = self._seconds.labels(self._queue, label, record_type)
                of_key[routing_key] = seconds
            seconds.observe(took.total_seconds())

    def handler_failed(
        self,
        delivered: WireMessage,
        error: BaseException,
        *,
        summary: ErrorSummary,
        attempt: int,
        message: Message[Any] | None,
    ) -> None:
        """A handler raised *error* for *message*, and its transaction was rolled back."""
        label, record_type = self._kind(delivered)
        place = summary.place
        self._attempts.attempt_failed(label, record_type, summary.error_class)
        ids, described = ids_of(delivered), logs.describe(error)
        self._log.warning(
            "handler_failed", type=label, attempt=attempt, place=place, **ids, **described
        )
        if message is not None:
            self.hooks.failed(Failure(message, error, self._source, self._queue))

    def batch_failed(
        self, event_type: str, error: BaseException, summary: ErrorSummary, *, size: int
    ) -> None:
        """A batch was rolled back for *error*; its messages are tried alone or in smaller ones."""
        label, place = self._label(event_type), summary.place
        self._batches.labels(label).inc()
        described = logs.describe(error)
        self._log.warning("batch_failed", type=label, size=size, place=place, **described)

    def failing_counted(self, failing: Mapping[str | None, int]) -> None:
        """The database has so many *failing* messages of each type."""
        self._attempts.counted(failing)

    def lease_lost(self, message: WireMessage) -> None:
        """The lease of *message* expired while the handler worked, which was cancelled."""
        label = self._label(message.type)
        self._leases.labels(label).inc()
        self._log.error("lease_lost", type=label, **ids_of(message))

    def settled(self, verdicts: Iterable[tuple[WireMessage, Verdict]]) -> None:
        """Deliveries were settled; each is a message and a verdict."""
        # By routing key first: there are many messages, and few kinds of them.
        counts: collections.Counter[tuple[str | None, str, str]] = collections.Counter()
        for message, verdict in verdicts:
            counts[message.type, first_routing_key(message), status_of(verdict)] += 1
            if isinstance(verdict, TryAgain):
                delay = f"{verdict.delay.total_seconds():g}"
                self._scheduled.labels(*self._kind(message), delay).inc()
                self.trace_settled(message, verdict)
            elif isinstance(verdict, DeadLetter):
                self._dead_lettered(message, verdict)
        for (event_type, routing_key, status), count in counts.items():
            label, record_type = self._label(event_type), self._record_types.label(routing_key)
            self.figures.counts[status] += count
            self._processed.labels(self._queue, label, record_type, status).inc(count)
            if status == "duplicate":
                self._duplicates.labels(label, record_type).inc(count)
            self._log.debug("messages_settled", type=label, status=status, count=count)

    def unsupported(self, message: WireMessage) -> None:
        """A message waits for a version of the program that can handle it; logged once."""
        if not self._has_unsupported:
            self._has_unsupported = True
            label = self._label(message.type)
            self._log.warning("message_unsupported", type=label, **ids_of(message))

    def requeued(self, event_type: str | None) -> None:
        """A message that the broker had dead-lettered was requeued into the work queue."""
        self._requeues.labels(self._label(event_type)).inc()

    def _dead_lettered(self, message: WireMessage, verdict: DeadLetter) -> None:
        label, record_type = self._kind(message)
        code = verdict.code if verdict.code in CODES else BY_HANDLER
        self._failures.labels(label, record_type, code).inc()
        self._dead.labels(self._source, code).inc()
        self._log.error(
            "message_dead_lettered",
            type=label,
            reason=verdict.code,
            detail=verdict.detail,
            attempt=verdict.attempt,
            **ids_of(message),
        )
        self.trace_settled(message, verdict)
        self.hooks.dead_lettered(
            DeadLettered(
                reason=verdict.code,
                message=verdict.message,
                error=verdict.error,
                message_id=message.message_id,
                type=message.type,
                attempts=verdict.attempt,
                consumer=self._source,
                queue=self._queue,
            )
        )

    def started(self, **facts: str | int) -> None:
        """The consumer has started."""
        self._log.info("consumer_started", **facts)

    def purged(self, result: int | DatabaseUnavailable) -> None:
        """Old rows of the dedup store were deleted; *result* is their number, or the error."""
        if isinstance(result, DatabaseUnavailable):
            self.availability.background("purge", result)
            return
        self.availability.background("purge", None)
        if result:
            self._log.info("dedup_purged", rows=result)

    def topology_report(self, health: Health) -> TopologyReport:
        """The report of the topology monitor; it is made once."""
        return TopologyReport(self._registry, health)

    def _label(self, event_type: str | None) -> str:
        return event_type if event_type is not None and event_type in self._known else OTHER

    def _kind(self, message: WireMessage) -> tuple[str, str]:
        record_type = self._record_types.label(first_routing_key(message))
        return self._label(message.type), record_type
