"""
The metrics of several processes on one page.
"""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumer.supervision.merged_metrics import MergedMetrics, merged
from consumer.telemetry import Telemetry


def page(settled):
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, source="etl", queue="q", known=["test.happened"])
    telemetry._deliveries.settled("test.happened", "other", status="success", count=settled)
    return generate_latest(registry).decode()


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Merged:
    """A collector of pages that are given."""

    def __init__(self, *pages: str) -> None:
        self.pages = dict(enumerate(pages, start=1))

    def describe(self):
        return ()

    def collect(self):
        return merged(self.pages)


def test_each_series_is_there_once_for_each_process():
    one, other = page(3), page(5)
    registry = CollectorRegistry()
    registry.register(Merged(one, other))

    found = samples(generate_latest(registry).decode())

    assert found == {
        (name, *sorted([*labels, ("process", number)])): value
        for number, own in (("1", one), ("2", other))
        for (name, *labels), value in samples(own).items()
    }
    processed = [value for key, value in found.items() if key[0] == "mq_messages_processed_total"]
    assert sorted(processed) == [3, 5]


def test_a_metric_has_one_type_line():
    registry = CollectorRegistry()
    registry.register(Merged(page(3), page(5)))

    types = [
        line for line in generate_latest(registry).decode().splitlines() if line.startswith("# T")
    ]

    assert len(types) == len(set(types))
    assert len(types) > 10


def test_a_process_that_does_not_answer_is_left_out():
    registry = CollectorRegistry()
    registry.register(MergedMetrics(lambda: {1: 1}))

    assert generate_latest(registry) == b""
