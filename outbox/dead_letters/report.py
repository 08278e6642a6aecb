"""
The dead letters of a running process: how many there are, how old, and how many were purged.
"""

from collections.abc import Collection, Sequence

from prometheus_client import CollectorRegistry

from outbox.dead_letters.store import ReasonCount
from outbox.runtime import logs
from outbox.runtime.in_memory import Counter, Gauge


class DeadLetterReport:
    """
    Logs and counts the dead letters of *source*.

    A reason that is not in *codes* was chosen by a handler, and gets the label *other*: their
    number has no bound.
    """

    def __init__(
        self, registry: CollectorRegistry, *, source: str, codes: Collection[str], other: str
    ) -> None:
        self._log = logs.get("dead_letters")
        self._source = source
        self._codes = frozenset(codes)
        self._other = other
        self._waiting = Gauge(
            "mq_dead_letters_waiting",
            "Dead letters that wait for a person, by reason.",
            ["source", "reason"],
            registry=registry,
        )
        self._oldest = Gauge(
            "mq_dead_letters_oldest_age_seconds",
            "Age of the oldest dead letter; 0 if there is none.",
            ["source"],
            registry=registry,
        )
        self._purged = Counter(
            "mq_dead_letters_purged",
            "Dead letters that were deleted since they are older than the retention.",
            ["source"],
            registry=registry,
        )
        self._bodies_expired = Counter(
            "mq_dead_letters_bodies_expired",
            "Dead letters whose body was deleted since it is older than the retention of bodies.",
            ["source"],
            registry=registry,
        )
        self._oldest.labels(source)
        self._bodies_expired.labels(source)
        self._purged.labels(source)

    def sampled(self, counts: Sequence[ReasonCount]) -> None:
        """The dead letters were counted; a reason that none has any more leaves the metric."""
        numbers: dict[str, int] = {}
        for count in counts:
            label = count.reason if count.reason in self._codes else self._other
            numbers[label] = numbers.get(label, 0) + count.letters
        self._waiting.clear()
        for label, number in numbers.items():
            self._waiting.labels(self._source, label).set(number)
        oldest = max((count.oldest.total_seconds() for count in counts), default=0.0)
        self._oldest.labels(self._source).set(oldest)

    def purged(self, letters: int) -> None:
        """A batch of old dead letters was deleted."""
        self._purged.labels(self._source).inc(letters)
        self._log.warning("dead_letters_purged", letters=letters)

    def bodies_expired(self, letters: int) -> None:
        """The bodies of a batch of old dead letters were deleted."""
        self._bodies_expired.labels(self._source).inc(letters)
        self._log.warning("dead_letter_bodies_expired", letters=letters)
