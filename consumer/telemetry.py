"""
Events of a consumer, written to the log and counted in metrics.

Only this module, and the metrics and reports that it makes, know log keys and metric names.
Labels are bounded: queues, registered event types, configured record types, reason codes,
configured delays.
"""

import collections
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from consumer.copy_report import CopyReport
from consumer.delivery_metrics import DeliveryMetrics
from consumer.failure_metrics import OTHER, FailureMetrics
from consumer.hook_report import HookReport
from consumer.hooks import DeadLettered, Failure, HookFunction, Hooks
from consumer.lag_report import LagReport
from consumer.log_fields import ids_of
from consumer.message import Message
from consumer.partition_report import PartitionReport
from consumer.verdict import CODES, DeadLetter, Erased, Expired, TryAgain, Verdict, status_of
from outbox.dead_letters.report import DeadLetterReport
from outbox.errors import DatabaseUnavailable
from outbox.runtime import logs
from outbox.runtime.certificate_metrics import CertificateMetrics
from outbox.runtime.error_summary import ErrorSummary
from outbox.runtime.figures import Figures
from outbox.runtime.in_memory import Histogram
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
        self._unsupported: set[str] = set()
        self._deliveries = DeliveryMetrics(registry, source=source, queue=queue)
        self.availability = Availability(self._log, registry)
        self.dead_letters = DeadLetterReport(
            registry, source=source, codes=CODES, other=BY_HANDLER
        )
        CertificateMetrics(registry)
        self._attempts = FailureMetrics(registry, self._known)
        self.copy = CopyReport(self._log, registry, health or Health()).copy
        self.partitions = PartitionReport(self._log, registry)
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
                seconds = self._deliveries.seconds(label, record_type)
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
        self._deliveries.batch_failed(label)
        described = logs.describe(error)
        self._log.warning("batch_failed", type=label, size=size, place=place, **described)

    def failing_counted(self, failing: Mapping[str | None, int]) -> None:
        """The database has so many *failing* messages of each type."""
        self._attempts.counted(failing)

    def lease_lost(self, message: WireMessage) -> None:
        """The lease of *message* expired while the handler worked, which was cancelled."""
        label = self._label(message.type)
        self._deliveries.lease_lost(label)
        self._log.error("lease_lost", type=label, **ids_of(message))

    def settled(self, verdicts: Iterable[tuple[WireMessage, Verdict]]) -> None:
        """Deliveries were settled; each is a message and a verdict."""
        # By routing key first: there are many messages, and few kinds of them.
        counts: collections.Counter[tuple[str | None, str, str]] = collections.Counter()
        for message, verdict in verdicts:
            counts[message.type, message.first_routing_key, status_of(verdict)] += 1
            if isinstance(verdict, TryAgain):
                self._deliveries.retry_scheduled(*self._kind(message), delay=verdict.delay)
                self.trace_settled(message, verdict)
            elif isinstance(verdict, DeadLetter):
                self._dead_lettered(message, verdict)
            elif isinstance(verdict, Expired):
                label = self._label(message.type)
                self._log.warning("request_expired", type=label, **ids_of(message))
            elif isinstance(verdict, Erased):
                label = self._label(message.type)
                self._log.debug("message_erased", type=label, **ids_of(message))
        for (event_type, routing_key, status), count in counts.items():
            label, record_type = self._label(event_type), self._record_types.label(routing_key)
            self.figures.counts[status] += count
            self._deliveries.settled(label, record_type, status=status, count=count)
            self._log.debug("messages_settled", type=label, status=status, count=count)

    def unsupported(self, message: WireMessage, reason: str, detail: str) -> None:
        """A message waits for a process that can handle it; logged once for each *reason* code."""
        if reason not in self._unsupported:
            self._unsupported.add(reason)
            label = self._label(message.type)
            self._log.warning(
                "message_unsupported", type=label, reason=reason, detail=detail, **ids_of(message)
            )

    def requeued(self, event_type: str | None) -> None:
        """A message that the broker had dead-lettered was requeued into the work queue."""
        self._deliveries.requeued(self._label(event_type))

    def _dead_lettered(self, message: WireMessage, verdict: DeadLetter) -> None:
        label, record_type = self._kind(message)
        code = verdict.code if verdict.code in CODES else BY_HANDLER
        self._deliveries.dead_lettered(label, record_type, reason=code)
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
        record_type = self._record_types.label(message.first_routing_key)
        return self._label(message.type), record_type
