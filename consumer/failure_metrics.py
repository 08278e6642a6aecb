"""
Metrics of failed attempts, with bounded labels: by the class of the error, never by its place.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from outbox.runtime.in_memory import Counter, Gauge

MOST_PAIRS = 50
"""The most pairs of type and error class that a process counts apart: the first ones."""

OTHER = "other"


class FailureMetrics:
    """Counts failed attempts, and the messages that wait after one; *known* are event types."""

    def __init__(self, registry: CollectorRegistry, known: frozenset[str]) -> None:
        self._known = known
        self._pairs: set[tuple[str, str]] = set()
        self._retries = Counter(
            "mq_retry_attempts",
            "Attempts that failed.",
            ["type", "record_type"],
            registry=registry,
        )
        self._errors = Counter(
            "mq_handler_errors",
            "Attempts that failed, by the class of the error; `other` after the first 50 pairs of "
            "type and class.",
            ["type", "error"],
            registry=registry,
        )
        self._failing = Gauge(
            "mq_messages_failing",
            "Messages that have failed and wait for their next attempt, by the database of the "
            "consumer; at most 100,000 are counted.",
            ["type"],
            registry=registry,
        )

    def attempt_failed(self, label: str, record_type: str, error_class: str) -> None:
        """An attempt at a message whose type has this *label* failed with this class of error."""
        self._retries.labels(label, record_type).inc()
        pair = label, error_class
        # A program may make classes without a bound.
        if pair not in self._pairs and len(self._pairs) >= MOST_PAIRS:
            pair = label, OTHER
        else:
            self._pairs.add(pair)
        self._errors.labels(*pair).inc()

    def counted(self, failing: Mapping[str | None, int]) -> None:
        """The database has so many *failing* messages of each type."""
        counts = dict.fromkeys([*self._known, OTHER], 0)
        for event_type, messages in failing.items():
            label = event_type if event_type is not None and event_type in counts else OTHER
            counts[label] += messages
        for label, messages in counts.items():
            self._failing.labels(label).set(messages)
