"""
How long messages took from their record to their delivery, and from there to their effects.

A message says in `x-outbox-recorded-at` when it was recorded, in whole seconds. If it occurred in
that second, then that counts as the moment of the record, since most events are made right before.
For any other message it is the middle of the second. A copy, of a retry or a replay, has waited on
purpose, so only its way from the delivery to the effects counts.

To measure each message would cost a busy consumer some microseconds for each. So only a sample of
each second is measured, and the times of many messages are observed at once.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
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
SAMPLE = 100
"""At most this number of messages, the first ones, are measured each second."""


class LagReport:
    """
    Histograms of the stages that a consumer sees.

    `pending` takes committed effects; `observe` has to be called once it is long. `left` is the
    number of messages that may still be measured, until the time `until`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pending: deque[Effects] = deque()
        self.left, self.until = 0, -inf
        # The probes read the histograms in another thread.
        self._lock = Lock()
        self._to_delivery = _Histogram(
            self,
            "mq_record_to_delivery_seconds",
            "Time from the insert of an event to the delivery of its message, to within half a "
            "second, by the clocks of database and consumer; of at most 100 messages a second, "
            "without retries and replays.",
            registry,
        )
        self._to_effect = _Histogram(
            self,
            "mq_delivery_to_effect_seconds",
            "Time from the delivery of a message to the commit of its effects, with its wait in "
            "the process; of at most 100 messages a second.",
            registry,
        )

    @property
    def histograms(self) -> Mapping[str, BatchHistogram]:
        """The histograms by the names that they have in the register of processes."""
        return {"record_to_delivery": self._to_delivery, "delivery_to_effect": self._to_effect}

    def observe(self) -> None:
        """Observe what is pending."""
        with self._lock:
            effect: list[float] = []
            delivery: list[float] = []
            while self.pending:
                moment, messages = self.pending.popleft()
                committed_at = datetime.fromtimestamp(moment, UTC)
                effect += [waited for _, waited in messages]
                delivery += [
                    (committed_at - recorded).total_seconds() - waited
                    for headers, waited in messages
                    if (recorded := _recorded(headers)) is not None
                ]
            self._to_effect.observe(effect)
            self._to_delivery.observe(delivery)


def _recorded(headers: Headers) -> datetime | None:
    """When the message was recorded; None if it does not say, or has waited on purpose since."""
    recorded, occurred = headers.recorded_at, headers.occurred_at
    if recorded is None or headers[_OF_COPIES:] != _OF_NO_COPY:
        return None
    if occurred is not None and recorded <= occurred < recorded + _SECOND:
        return occurred
    return recorded + _HALF


_SECOND, _HALF = timedelta(seconds=1), timedelta(seconds=0.5)
_OF_COPIES = Headers._fields.index("failed_attempts")
"""Where the headers begin that only copies have."""
_OF_NO_COPY = Headers()[_OF_COPIES:]


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
