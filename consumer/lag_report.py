"""
How long messages took from their record to their delivery, and from there to their effects.

A message says in `x-outbox-recorded-at` when it was recorded, in whole seconds. If it occurred in
that second, then that counts as the moment of the record, since most events are made right before.
For any other message it is the middle of the second. A copy, of a retry or a replay, has waited on
purpose, so only its way from the delivery to the effects counts.

The times of many messages are observed at once, which is cheaper than one after another.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily

from outbox.runtime.batch_histogram import LATENCY_BUCKETS, BatchHistogram
from outbox.runtime.distribution import Distribution
from outbox.wire.headers import Headers

Effects: TypeAlias = tuple[float, Sequence[tuple[Headers, float]]]
"""
A moment, in seconds since 1970, and the messages whose effects were committed then: the headers of
each, and the seconds since its delivery.
"""

MOST_PENDING = 64
_SECOND = timedelta(seconds=1)


class LagReport:
    """
    Histograms of the stages that a consumer sees.

    `pending` takes committed effects; `observe` has to be called once it is long.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pending: deque[Effects] = deque()
        # The probes read the histograms in another thread.
        self._lock = Lock()
        self._to_delivery = _Histogram(
            self,
            "mq_record_to_delivery_seconds",
            "Time from the insert of an event to the delivery of its message, to within half a "
            "second, by the clocks of database and consumer; without retries and replays.",
            registry,
        )
        self._to_effect = _Histogram(
            self,
            "mq_delivery_to_effect_seconds",
            "Time from the delivery of a message to the commit of its effects, with its wait in "
            "the process.",
            registry,
        )

    @property
    def histograms(self) -> Mapping[str, BatchHistogram]:
        """The histograms by the names that they have in the register of processes."""
        return {"record_to_delivery": self._to_delivery, "delivery_to_effect": self._to_effect}

    def observe(self) -> None:
        """Observe what is pending."""
        with self._lock:
            for moment, messages in _taken(self.pending):
                committed_at = datetime.fromtimestamp(moment, UTC)
                self._to_effect.observe([waited for _, waited in messages])
                self._to_delivery.observe(
                    [
                        (committed_at - recorded).total_seconds() - waited
                        for headers, waited in messages
                        if (recorded := _recorded(headers)) is not None
                    ]
                )


def _recorded(headers: Headers) -> datetime | None:
    """When the message was recorded; None if it does not say, or has waited on purpose since."""
    recorded, occurred = headers.recorded_at, headers.occurred_at
    if recorded is None or headers.failed_attempts or headers.requeues:
        return None
    if headers.not_before or headers.unsupported_since or headers.replay:
        return None
    if occurred is not None and recorded <= occurred < recorded + _SECOND:
        return occurred
    return recorded + _SECOND / 2


def _taken(pending: deque[Effects]) -> Iterator[Effects]:
    while pending:
        yield pending.popleft()


class _Histogram(BatchHistogram):
    """A histogram of a report, which is up to date when it is read."""

    def __init__(
        self, report: LagReport, name: str, documentation: str, registry: CollectorRegistry
    ) -> None:
        self._report: LagReport | None = None
        super().__init__(name, documentation, bounds=LATENCY_BUCKETS, registry=registry)
        self._report = report

    @property
    def distribution(self) -> Distribution:
        self._up_to_date()
        return super().distribution

    def collect(self) -> Iterator[HistogramMetricFamily]:
        self._up_to_date()
        yield from super().collect()

    def _up_to_date(self) -> None:
        # The registry reads it once while it is made.
        if self._report is not None:
            self._report.observe()
