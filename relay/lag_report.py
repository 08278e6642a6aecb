"""
How long confirmed events took, from their insert to their claim and to their confirm.

The times of a batch are observed at once. All its events are claimed at the same moment, and its
last confirm stands for all, so both stages follow from the age of each event at the confirm.
"""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry

from outbox.runtime.batch_histogram import LATENCY_BUCKETS, BatchHistogram


class LagReport:
    """Histograms of the stages that the relay sees."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str) -> BatchHistogram:
            return BatchHistogram(name, documentation, bounds=LATENCY_BUCKETS, registry=registry)

        self._to_claim = histogram(
            "mq_commit_to_claim_seconds",
            "Time from the insert of a confirmed event to its last claim, by the clocks of "
            "database and relay.",
        )
        self._to_confirm = histogram(
            "mq_claim_to_confirm_seconds",
            "Time from the claim of a confirmed event to the last confirm of its batch.",
        )
        self._whole = histogram(
            "mq_commit_to_confirm_seconds",
            "Time from the insert of an event to its confirm, by the clocks of database and "
            "relay.",
        )

    @property
    def histograms(self) -> Mapping[str, BatchHistogram]:
        """The histograms by the names that they have in the register of processes."""
        return {
            "commit_to_claim": self._to_claim,
            "claim_to_confirm": self._to_confirm,
            "commit_to_confirm": self._whole,
        }

    def confirmed(self, ages: Sequence[float], *, after_claim: float) -> None:
        """Events of a batch with these *ages* were confirmed, some seconds *after_claim*."""
        ascending = sorted(ages)
        self._whole.observe_sorted(ascending)
        self._to_claim.observe_sorted(ascending, less=after_claim)
        self._to_confirm.observe_equal(after_claim, len(ages))
