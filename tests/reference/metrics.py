"""
The tables of metrics, from what the processes register.
"""

from typing import Any

from prometheus_client import CollectorRegistry

from consumer.telemetry import Telemetry as ConsumerTelemetry
from outbox.runtime.probes import Health
from relay.telemetry import Telemetry as RelayTelemetry
from tests.reference import markdown
from tests.reference.markdown import code, codes


def relay() -> str:
    """Metrics of the relay."""
    registry = CollectorRegistry()
    RelayTelemetry(registry, exchange="")
    return _table(registry)


def consumer() -> str:
    """Metrics of a consumer."""
    registry = CollectorRegistry()
    ConsumerTelemetry(registry, source="", queue="", known=()).topology_report(Health())
    return _table(registry)


def _table(registry: CollectorRegistry) -> str:
    rows = [
        [_name(family), family.type, codes(_labels(collector)), family.documentation]
        for collector in _collectors(registry)
        for family in collector.collect()
    ]
    return markdown.table(["metric", "type", "labels", "meaning"], rows)


def _collectors(registry: CollectorRegistry) -> list[Any]:
    return list(registry._collector_to_names)


def _labels(collector: Any) -> tuple[str, ...]:
    return tuple(getattr(collector, "_labelnames", ()))


def _name(family: Any) -> str:
    return code(f"{family.name}_total" if family.type == "counter" else family.name)
