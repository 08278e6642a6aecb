"""
The batch histogram exports the same figures as the client library's own.
"""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from outbox.runtime.batch_histogram import BatchHistogram

BOUNDS = (0.005, 0.25, 1, 60)


def exposed(registry: CollectorRegistry) -> list[str]:
    return [
        line for line in generate_latest(registry).decode().splitlines() if "created" not in line
    ]


@given(st.lists(st.sampled_from([0.0, 0.005, 0.0051, 0.25, 0.5, 1.0, 7.0, 60.0, 61.0])))
def test_many_values_at_once_are_counted_as_one_after_another(values):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    BatchHistogram("took_seconds", "How long.", bounds=BOUNDS, registry=ours).observe(values)
    histogram = Histogram("took_seconds", "How long.", buckets=BOUNDS, registry=theirs)
    for value in values:
        histogram.observe(value)

    assert exposed(ours) == exposed(theirs)
