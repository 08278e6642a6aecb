"""
The series that rules and dashboards may ask for, each with its labels.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from tests.reference import metrics
from tests.support.pages import REPOSITORY
from tests.support.prometheus.expressions import uses

RULES = REPOSITORY / "deploy" / "prometheus" / "rules.yml"

TARGET = frozenset({"job", "instance"})
"""The labels that Prometheus gives to every series."""

_QUEUE = frozenset({"vhost", "queue"})
_NONE: frozenset[str] = frozenset()

OF_BROKER: Mapping[str, frozenset[str]] = {
    "rabbitmq_alarms_file_descriptor_limit": _NONE,
    "rabbitmq_alarms_free_disk_space_watermark": _NONE,
    "rabbitmq_alarms_memory_used_watermark": _NONE,
    "rabbitmq_disk_space_available_bytes": _NONE,
    "rabbitmq_disk_space_available_limit_bytes": _NONE,
    "rabbitmq_process_resident_memory_bytes": _NONE,
    "rabbitmq_resident_memory_limit_bytes": _NONE,
    "rabbitmq_detailed_queue_consumers": _QUEUE,
    "rabbitmq_detailed_queue_messages": _QUEUE,
    "rabbitmq_detailed_queue_messages_ready": _QUEUE,
    "rabbitmq_detailed_queue_messages_unacked": _QUEUE,
}
"""Series of RabbitMQ's plugin; a test compares them with a real broker."""

OF_PROMETHEUS: Mapping[str, frozenset[str]] = {
    "up": TARGET,
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}


@cache
def known() -> Mapping[str, frozenset[str]]:
    """All of them, with those that rules.yml records."""
    found = {
        **{name: labels | TARGET for name, labels in metrics.series().items()},
        **{name: labels | TARGET for name, labels in OF_BROKER.items()},
        **OF_PROMETHEUS,
    }
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = frozenset(uses(rule["expr"]).grouped - {"le"})
    return found


@cache
def rules() -> list[dict[str, Any]]:
    """The rules of rules.yml, of all groups."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def problems(expression: str, series: Mapping[str, frozenset[str]]) -> list[str]:
    """Each metric and label of *expression* that is not in *series*."""
    used = uses(expression)
    found = [f"no metric {name}" for name in sorted(used.names - set(series))]
    of_all: set[str] = set()
    for name, labels in used.selected.items():
        existing = series.get(name, labels)
        of_all |= existing
        found += [f"no label {label} of {name}" for label in sorted(labels - existing)]
    return found + [f"no label {label}" for label in sorted(used.grouped - of_all)]
