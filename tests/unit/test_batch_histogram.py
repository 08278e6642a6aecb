"""
The batch histogram exports the same figures as the client library's own.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from outbox.runtime.batch_histogram import BatchHistogram

BOUNDS = (0.005, 0.25, 1, 60)


def exposed(registry: CollectorRegistry) -> dict[str, object]:
    """The figures by name; a sum depends on the order of its terms."""
    lines = generate_latest(registry).decode().splitlines()
    figures = (line.rpartition(" ") for line in lines if "created" not in line)
    return {
        name: pytest.approx(float(value)) if name.endswith("_sum") else value
        for name, _, value in figures
    }


@given(st.lists(st.sampled_from([0.0, 0.005, 0.0051, 0.25, 0.5, 1.0, 7.0, 60.0, 61.0])))
def test_many_values_at_once_are_counted_as_one_after_another(values):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    BatchHistogram("took_seconds", "How long.", bounds=BOUNDS, registry=ours).observe(values)
    histogram = Histogram("took_seconds", "How long.", buckets=BOUNDS, registry=theirs)
    for value in values:
        histogram.observe(value)

    assert exposed(ours) == exposed(theirs)


@given(
    st.lists(st.sampled_from([0.0, 0.005, 0.25, 0.5, 1.0, 60.0])),
    st.sampled_from([0.0, 0.245, 0.25, 61.0]),
)
def test_values_less_a_constant_are_counted_as_their_differences(values, less):
    at_once, alone = (
        BatchHistogram("took", "How long.", bounds=BOUNDS, registry=CollectorRegistry())
        for _ in range(2)
    )

    at_once.observe_sorted(sorted(values), less=less)
    for value in values:
        alone.observe([max(value - less, 0.0)])

    assert sum(at_once.distribution.counts) == len(values)
    assert at_once.distribution.total == pytest.approx(alone.distribution.total)
