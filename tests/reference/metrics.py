"""
The tables of metrics, from what the processes register.
"""

from typing import Any

from prometheus_client import CollectorRegistry

from consumer.reply_report import ReplyReport
from consumer.supervision.telemetry import Telemetry as SupervisorTelemetry
from consumer.telemetry import Telemetry as ConsumerTelemetry
from outbox.runtime.probes import Health
from relay.telemetry import Telemetry as RelayTelemetry
from tests.reference import markdown
from tests.reference.markdown import code, codes

_SUFFIXES = {
    "counter": ["_total", "_created"],
    "histogram": ["_bucket", "_count", "_sum", "_created"],
    "gauge": [""],
}


def relay() -> str:
    """Metrics of the relay."""
    return _table(_of_relay())


def consumer() -> str:
    """Metrics of a consumer."""
    return _table(_of_consumer())


def supervisor() -> str:
    """Metrics of the supervisor of a consumer."""
    return _table(_of_supervisor())


def series() -> dict[str, frozenset[str]]:
    """The labels of every series of all processes, by name."""
    found: dict[str, frozenset[str]] = {}
    for registry in (_of_relay(), _of_consumer(), _of_supervisor()):
        for collector in _collectors(registry):
            for family in collector.collect():
                labels = frozenset(_labels(collector))
                for suffix in _SUFFIXES[family.type]:
                    more = {"le"} if suffix == "_bucket" else set()
                    name = family.name + suffix
                    found[name] = found.get(name, frozenset()) | labels | more
    return found


def _of_relay() -> CollectorRegistry:
    registry = CollectorRegistry()
    RelayTelemetry(registry, exchange="")
    return registry


def _of_consumer() -> CollectorRegistry:
    registry = CollectorRegistry()
    ConsumerTelemetry(registry, source="", queue="", known=()).topology_report(Health())
    ReplyReport(registry)
    return registry


def _of_supervisor() -> CollectorRegistry:
    registry = CollectorRegistry()
    SupervisorTelemetry(registry)
    return registry


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
