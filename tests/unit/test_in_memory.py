"""
Our metrics beside those of the client library, which they have to look like.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from outbox.runtime import in_memory
from tests.support.pages import REPOSITORY

PROGRAM = """
import sys
import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from consumer.telemetry import Telemetry as ConsumerTelemetry
from outbox.runtime.in_memory import Gauge
from relay.telemetry import Telemetry as RelayTelemetry

relay, consumer = CollectorRegistry(), CollectorRegistry()
RelayTelemetry(relay, exchange="x").queues_missing(3)
telemetry = ConsumerTelemetry(consumer, source="etl", queue="q", known=["a"])
telemetry.requeued("a")
gauge = Gauge("of_states", "", ["state"], registry=relay)
for state in ("ready", "waiting", "blocked"):
    gauge.labels(state).set(1)
gauge.remove("ready")
gauge.clear()
gauge.labels("refused").set(2)
if "handler" in sys.argv:
    prometheus_client.Gauge("of_a_handler", "", registry=CollectorRegistry()).inc()
print(generate_latest(relay).decode(), generate_latest(consumer).decode())
"""


def run(program: str, *arguments: str, directory: Path) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error:.*label:UserWarning", "-c", program, *arguments],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_only_metrics_of_handlers_are_shared_in_multiprocess_mode(tmp_path):
    """Among those of a web server, ours would be counted twice, and after a restart again."""
    text = run(PROGRAM, "handler", directory=tmp_path)

    assert "mq_required_queues_missing 3.0" in text
    assert 'mq_requeued_total{type="a"} 1.0' in text
    assert [line for line in text.splitlines() if line.startswith("of_states{")] == [
        'of_states{state="refused"} 2.0'
    ]
    (shared,) = tmp_path.iterdir()
    assert b"of_a_handler" in shared.read_bytes()
    assert b"mq_" not in shared.read_bytes()


def test_the_directory_of_multiprocess_mode_may_be_missing(tmp_path):
    assert "mq_requeued_total" in run(PROGRAM, directory=tmp_path / "missing")


@pytest.mark.parametrize("labels", [(), ("a",)])
def test_metrics_look_like_those_of_the_library(labels):
    def samples(library: object) -> Iterable[tuple[object, ...]]:
        registry = CollectorRegistry()
        counter, gauge, histogram = (
            getattr(library, kind)(kind.lower(), "help", labels, registry=registry)
            for kind in ("Counter", "Gauge", "Histogram")
        )
        values = ["x"] * len(labels)
        for metric in (counter, gauge, histogram):
            _act(metric.labels(*values) if values else metric)
        return [
            (family.type, family.documentation, sample.name, sample.labels, sample.value)
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    found = samples(in_memory)

    assert found == samples(prometheus_client)
    assert len(found) > 15


def _act(metric: object) -> None:
    match metric:
        case prometheus_client.Counter() | prometheus_client.Gauge():
            metric.inc(2)
        case prometheus_client.Histogram():
            metric.observe(0.3)


def test_only_one_module_makes_metrics_of_the_library():
    """Any other would write into the files of multiprocess mode."""
    library = tuple(f"{kind}(" for kind in ("Counter", "Gauge", "Histogram", "Summary", "Info"))
    makers = [
        path.relative_to(REPOSITORY).as_posix()
        for package in ("outbox", "relay", "consumer", "outbox_testing", "outbox_demo")
        for path in (REPOSITORY / package).rglob("*.py")
        if any(
            line.startswith("from prometheus_client import")
            and any(kind.rstrip("(") in line for kind in library)
            for line in path.read_text().splitlines()
        )
    ]

    assert makers == []
