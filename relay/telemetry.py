"""
The events of the relay, as log events and metrics.

Only this module knows log keys and metric names. Labels are bounded: exchanges, outcomes, reason
codes, some types and configured record types, never ids, keys or users.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

from prometheus_client import CollectorRegistry

from outbox.dead_letters.report import DeadLetterReport
from outbox.errors import UnreadableMessage
from outbox.runtime import logs
from outbox.runtime.certificate_metrics import CertificateMetrics
from outbox.runtime.figures import Figures
from outbox.runtime.in_memory import Counter, Gauge, Histogram
from outbox.runtime.process import Availability
from outbox.runtime.record_types import RecordTypes
from outbox.transports.base import Outcome
from relay.event_gauges import EventGauges
from relay.lag_report import LagReport
from relay.row import Row
from relay.storage.base import Backlog
from relay.storage.settlement import SOURCE, UNSETTLED
from relay.verdict import DeadLetter, Delete, Expire, Leave, Quarantine, Retry, Verdict

_SUCCESS = "success"

_REASONS = {
    Outcome.RETURNED.value,
    Outcome.NACKED.value,
    Outcome.REJECTED.value,
    Outcome.MALFORMED.value,
    Outcome.PLAIN.value,
    UNSETTLED,
}
"""The reasons for which the relay dead-letters an event."""


class Telemetry:
    """Logs and counts the events of one relay; `trace_settled` gets rows that were not deleted."""

    def __init__(
        self, registry: CollectorRegistry, *, exchange: str, record_types: Collection[str] = ()
    ) -> None:
        self._log = logs.get("relay")
        self._exchange = exchange
        self._record_types = RecordTypes(record_types)
        self._published = Counter(
            "mq_messages_published",
            "Publishes of events, by outcome.",
            ["exchange", "record_type", "status"],
            registry=registry,
        )
        self._publish_seconds = Histogram(
            "mq_publish_duration_seconds",
            "Time from the first publish of a batch to its last confirm.",
            ["exchange"],
            registry=registry,
        )
        self._lag = LagReport(registry)
        self.figures = Figures(began=time.monotonic(), lags=self._lag.histograms)
        self._dead = Counter(
            "mq_dead_letters",
            "Events moved to dead_letters.",
            ["source", "reason"],
            registry=registry,
        )
        self._unsettled = Counter(
            "mq_outbox_rows_unsettled",
            "Rows that the database refused to delete or to change; each waits for a day.",
            registry=registry,
        )
        self._backlog = Gauge(
            "mq_outbox_backlog",
            "Rows in the outbox; exact up to 10,000, then Postgres's estimate.",
            registry=registry,
        )
        self._age = Gauge(
            "mq_outbox_oldest_ready_age_seconds",
            "Age of the oldest row that could be published now.",
            registry=registry,
        )
        self._oldest = Gauge(
            "mq_outbox_oldest_age_seconds",
            "Age of the oldest row that should have left; only rows that wait because their "
            "producer wants it do not count.",
            registry=registry,
        )
        self._events = EventGauges(
            Gauge(
                "mq_outbox_events",
                "Rows in the outbox by state, type and reason; a lower bound if more than 10,000 "
                "are ready or wait.",
                ["state", "type", "reason"],
                registry=registry,
            ),
            Gauge(
                "mq_outbox_state_oldest_age_seconds",
                "Age of the oldest row in the outbox of each state.",
                ["state"],
                registry=registry,
            ),
        )
        self._dead_tuples = Gauge(
            "mq_outbox_dead_tuples",
            "Postgres: deleted rows that vacuum has not removed.",
            registry=registry,
        )
        self._snapshot = Gauge(
            "mq_oldest_snapshot_age_seconds",
            "Postgres: age of the oldest open or prepared transaction, which keeps vacuum from "
            "removing rows.",
            registry=registry,
        )
        self._snapshot_transactions = Gauge(
            "mq_oldest_snapshot_transactions",
            "Postgres: transactions begun since the oldest one whose rows vacuum has to keep, for "
            "a transaction or a replication slot.",
            registry=registry,
        )
        self._queues_missing = Gauge(
            "mq_required_queues_missing",
            "Queues of MQ_REQUIRED_QUEUES that are not bound; above 0 the relay does not publish.",
            registry=registry,
        )
        self.availability = Availability(self._log, registry)
        self.dead_letters = DeadLetterReport(
            registry, source=SOURCE, codes=_REASONS, other="other"
        )
        CertificateMetrics(registry)
        self.trace_settled: Callable[[Sequence[Verdict]], None] | None = None

    def published(
        self, rows: Sequence[Row], outcomes: Mapping[int, Outcome], *, took: timedelta
    ) -> None:
        """A batch was published; *outcomes* are by row id, and may not have all *rows*."""
        now = datetime.now(UTC)
        self._publish_seconds.labels(self._exchange).observe(took.total_seconds())
        acked = [row for row in rows if outcomes.get(row.id) is Outcome.ACKED]
        self._lag.confirmed(
            [(now - row.created_at).total_seconds() for row in acked],
            after_claim=took.total_seconds(),
        )

    def unreadable(self, row: Row, error: UnreadableMessage) -> None:
        """*row* is no event."""
        self._log.error("row_unreadable", row=row.id, reason=error.code, detail=error.detail)

    def settled(self, verdicts: Sequence[Verdict]) -> None:
        """A batch was settled."""
        others = [verdict for verdict in verdicts if not isinstance(verdict, Delete)]
        statuses = Tally({_SUCCESS: len(verdicts) - len(others)})
        statuses.update(map(_status, others))
        if self.trace_settled is not None:
            self.trace_settled(others)
        for verdict in others:
            match verdict:
                case DeadLetter():
                    self._dead_lettered(verdict)
                case Expire():
                    message_id = str(verdict.row.values.get("event_id"))
                    self._log.warning("request_expired", message_id=message_id)
                case Quarantine():
                    self._unsettled.inc()
                    self._log.error("row_unsettled", row=verdict.row.id)
        self._count(verdicts, others)
        sent = len(verdicts) - len(others)
        failed = Tally(map(_status, others))
        self.figures.counts.update(failed, **{_SUCCESS: sent})
        if failed:
            self._log.warning("batch_partly_failed", sent=sent, **failed)
        else:
            self._log.debug("batch_published", sent=sent)

    def _count(self, verdicts: Sequence[Verdict], others: Sequence[Verdict]) -> None:
        """Count *verdicts*, of which *others* are no success."""
        # By routing key first: a batch has many rows, and few kinds of them.
        keys = Tally([verdict.row.values.get("routing_key") for verdict in verdicts])
        failed = Tally([(each.row.values.get("routing_key"), _status(each)) for each in others])
        for (key, status), count in failed.items():
            keys[key] -= count
            self._published.labels(*self._kind(key), status).inc(count)
        for key, count in keys.items():
            self._published.labels(*self._kind(key), _SUCCESS).inc(count)

    def _kind(self, routing_key: object) -> tuple[str, str]:
        return self._exchange, self._record_types.label(routing_key)

    def _dead_lettered(self, verdict: DeadLetter) -> None:
        self._dead.labels("relay", verdict.code).inc()
        self._log.error(
            "event_dead_lettered",
            row=verdict.row.id,
            message_id=str(verdict.row.values.get("event_id")),
            reason=verdict.code,
        )

    def sampled(self, backlog: Backlog) -> None:
        """The backlog was measured."""
        self._backlog.set(backlog.rows)
        self._age.set(backlog.oldest_ready_age.total_seconds())
        self._oldest.set(backlog.oldest_age.total_seconds())
        self._events.show(backlog.events)
        if backlog.dead_tuples is not None:
            self._dead_tuples.set(backlog.dead_tuples)
        if backlog.oldest_snapshot_age is not None:
            self._snapshot.set(backlog.oldest_snapshot_age.total_seconds())
        if backlog.oldest_snapshot_transactions is not None:
            self._snapshot_transactions.set(backlog.oldest_snapshot_transactions)

    def queues_missing(self, count: int) -> None:
        """The required queues were checked."""
        self._queues_missing.set(count)

    def standby(self, stands_by: bool) -> None:
        """Another relay works on the SQLite file, or this one has taken over from it."""
        if stands_by:
            self._log.info(
                "relay_stands_by", reason="another relay holds the lock of the SQLite file"
            )
        else:
            self._log.info("relay_took_over")

    def started(self, **facts: str | int) -> None:
        """The relay has started to work."""
        self._log.info("relay_started", **facts)


def _status(verdict: Verdict) -> str:
    """The status of a publish in metrics."""
    match verdict:
        case Delete():
            return _SUCCESS
        case Retry(code=code) | DeadLetter(code=code):
            return code
        case Expire():
            return "expired"
        case Leave():
            return "unknown"
        case Quarantine():
            return "unsettled"
        case _:
            assert_never(verdict)
