"""
The events of the relay, as log events and metrics.

Only this module knows log keys and metric names. Labels are bounded: exchanges, outcomes and
reason codes, never ids, keys or users.
"""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from outbox.runtime import logs
from outbox.runtime.process import Availability
from outbox.transports.base import Outcome
from relay.batch_histogram import BatchHistogram
from relay.row import Row
from relay.storage.base import Backlog
from relay.verdict import DeadLetter, Delete, Leave, Retry, Verdict

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class Telemetry:
    """Logs and counts the events of one relay."""

    def __init__(self, registry: CollectorRegistry, *, exchange: str) -> None:
        self._log = logs.get("relay")
        self._exchange = exchange
        self._published = Counter(
            "mq_messages_published",
            "Publishes of events, by outcome.",
            ["exchange", "status"],
            registry=registry,
        )
        self._publish_seconds = Histogram(
            "mq_publish_duration_seconds",
            "Time from the first publish of a batch to its last confirm.",
            ["exchange"],
            registry=registry,
        )
        self._latency = BatchHistogram(
            "mq_commit_to_confirm_seconds",
            "Time from the insert of an event to its confirm, by the clocks of database and "
            "relay.",
            bounds=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._dead = Counter(
            "mq_dead_letters",
            "Events moved to dead_letters.",
            ["source", "reason"],
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
        self._dead_tuples = Gauge(
            "mq_outbox_dead_tuples",
            "Postgres: deleted rows that vacuum has not removed.",
            registry=registry,
        )
        self._snapshot = Gauge(
            "mq_oldest_snapshot_age_seconds",
            "Postgres: age of the oldest open snapshot, which keeps vacuum from removing rows.",
            registry=registry,
        )
        self.availability = Availability(self._log, registry)

    def published(
        self, rows: Sequence[Row], outcomes: Mapping[int, Outcome], *, took: timedelta
    ) -> None:
        """A batch was published; *outcomes* are by row id, and may not have all *rows*."""
        now = datetime.now(UTC)
        self._publish_seconds.labels(self._exchange).observe(took.total_seconds())
        self._latency.observe(
            max((now - row.created_at).total_seconds(), 0)
            for row in rows
            if outcomes.get(row.id) is Outcome.ACKED
        )

    def settled(self, verdicts: Sequence[Verdict]) -> None:
        """A batch was settled."""
        statuses: Tally[str] = Tally()
        for verdict in verdicts:
            match verdict:
                case Delete():
                    statuses["success"] += 1
                case Retry(code=code):
                    statuses[code] += 1
                case DeadLetter(code=code):
                    statuses[code] += 1
                    self._dead.labels("relay", code).inc()
                case Leave():
                    statuses["unknown"] += 1
                case _:
                    assert_never(verdict)
        for status, count in statuses.items():
            self._published.labels(self._exchange, status).inc(count)
        failed = {status: count for status, count in statuses.items() if status != "success"}
        if failed:
            self._log.warning("batch_partly_failed", sent=statuses["success"], **failed)
        else:
            self._log.debug("batch_published", sent=statuses["success"])

    def sampled(self, backlog: Backlog) -> None:
        """The backlog was measured."""
        self._backlog.set(backlog.rows)
        self._age.set(backlog.oldest_ready_age.total_seconds())
        if backlog.dead_tuples is not None:
            self._dead_tuples.set(backlog.dead_tuples)
        if backlog.oldest_snapshot_age is not None:
            self._snapshot.set(backlog.oldest_snapshot_age.total_seconds())

    def started(self, **facts: str | int) -> None:
        """The relay has started to work."""
        self._log.info("relay_started", **facts)
