"""
Autoscalers in deploy/kubernetes ask for metrics that exist, and for the queue of the consumer.
"""

import copy
import os
import re

import pytest
import yaml

from consumer.settings import ConsumerSettings
from examples.etl import etl
from outbox.runtime.service import ABORT_SECONDS
from outbox.settings import SharedSettings
from tests.support.installation import DEFINITIONS
from tests.support.kubernetes import VERSIONS, build, violations
from tests.support.kubernetes.manifests import FOLDER, PART_OF, containers, objects, pod
from tests.support.pages import REPOSITORY

PROCESSES = ("outbox-relay", "outbox-consumer-etl")
QUEUE = f"{ConsumerSettings.model_fields['processing_queue'].default}.{etl.name}"

# The fields that KEDA reads, in August 2026: apis/keda/v1alpha1/scaledobject_types.go of its
# repository, and prometheus_scaler.go and rabbitmq_scaler.go in pkg/scalers.
SCALED_OBJECT = {
    "scaleTargetRef",
    "pollingInterval",
    "cooldownPeriod",
    "initialCooldownPeriod",
    "minReplicaCount",
    "maxReplicaCount",
    "fallback",
    "advanced",
    "triggers",
}
TRIGGERS = {
    "prometheus": {
        "required": {"serverAddress", "query", "threshold"},
        "optional": {"activationThreshold", "namespace", "ignoreNullValues", "unsafeSsl"},
    },
    "rabbitmq": {
        "required": {"queueName", "mode", "value"},
        "optional": {"protocol", "vhostName", "excludeUnacknowledged", "activationValue"},
    },
}


@pytest.mark.parametrize("name", ["overlays/hpa", "overlays/keda"])
def test_an_overlay_that_scales_sets_no_number_of_pods(name):
    for deployment in objects(name, "Deployment").values():
        assert "replicas" not in deployment["spec"]


def test_keda_has_every_field_and_knows_our_queue():
    virtual_host = yaml.safe_load(DEFINITIONS.read_text())["vhosts"][0]["name"]
    scaled = objects("overlays/keda", "ScaledObject")
    assert {each["spec"]["scaleTargetRef"]["name"] for each in scaled.values()} == {*PROCESSES}
    for each in scaled.values():
        assert {*each["spec"]} <= SCALED_OBJECT
        assert 0 < each["spec"]["minReplicaCount"] < each["spec"]["maxReplicaCount"]
        for trigger in each["spec"]["triggers"]:
            fields = TRIGGERS[trigger["type"]]
            assert {*trigger} <= {"type", "metricType", "metadata", "authenticationRef"}
            assert fields["required"] <= {*trigger["metadata"]}
            assert {*trigger["metadata"]} <= fields["required"] | fields["optional"]
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
    queues = [
        trigger["metadata"]
        for each in scaled.values()
        for trigger in each["spec"]["triggers"]
        if trigger["type"] == "rabbitmq"
    ]
    assert {queue["queueName"] for queue in queues} == {QUEUE}
    assert {queue["vhostName"] for queue in queues} == {virtual_host}
    assert {queue["mode"] for queue in queues} == {"QueueLength", "MessageRate"}


def test_the_number_of_pods_at_most_doubles_in_a_minute_and_falls_after_ten():
    """`cooldownPeriod` of KEDA is for the step to zero alone."""
    behaviors = [
        each["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for each in objects("overlays/keda", "ScaledObject").values()
    ] + [
        each["spec"]["behavior"]
        for each in objects("overlays/hpa", "HorizontalPodAutoscaler").values()
    ]

    assert len(behaviors) == 4
    for behavior in behaviors:
        assert behavior["scaleUp"] == {
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}]
        }
        assert behavior["scaleDown"] == {"stabilizationWindowSeconds": 600}


def test_the_behavior_that_keda_hands_on_has_only_fields_of_kubernetes():
    autoscaler = copy.deepcopy(
        objects("overlays/hpa", "HorizontalPodAutoscaler")["outbox-consumer-etl"]
    )
    for each in objects("overlays/keda", "ScaledObject").values():
        config = each["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
        autoscaler["spec"]["behavior"] = config["behavior"]
        for version in VERSIONS:
            assert violations(autoscaler, version) == []


def test_a_pod_may_drain_before_it_is_killed():
    for name in PROCESSES:
        deployment = objects("overlays/keda", "Deployment")[name]
        drain = SharedSettings.model_fields["drain_seconds"].default
        assert pod(deployment)["terminationGracePeriodSeconds"] > drain + 2 * ABORT_SECONDS


def test_the_lag_is_that_of_the_queue_and_its_consumer():
    scaled = objects("overlays/keda", "ScaledObject")["outbox-consumer-etl"]
    [query] = [
        trigger["metadata"]["query"]
        for trigger in scaled["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]

    assert re.findall(r'queue="([^"]*)"', query) == [QUEUE, QUEUE]


def test_autoscalers_ask_for_metrics_that_the_adapter_serves():
    rules = yaml.safe_load((FOLDER / "overlays/hpa/adapter-rules.yaml").read_text())["rules"]
    served = {rule["name"]["as"] for rule in rules["external"]}
    scalers = objects("overlays/hpa", "HorizontalPodAutoscaler")
    wanted = [
        m["external"]["metric"] for each in scalers.values() for m in each["spec"]["metrics"]
    ]

    assert {metric["name"] for metric in wanted} == served
    labels = [metric["selector"]["matchLabels"] for metric in wanted if "selector" in metric]
    assert {label["queue"] for label in labels} == {QUEUE}


def test_every_metric_that_scales_exists():
    page = (REPOSITORY / "docs" / "reference" / "metrics.md").read_text()
    files = [
        FOLDER / "overlays/hpa/adapter-rules.yaml",
        FOLDER / "overlays/keda/scaled-objects.yaml",
    ]
    named = {
        name
        for file in files
        for name in re.findall(r"(?:seriesQuery: |max\(|rate\()(mq_\w+)", file.read_text())
    }

    assert named == {
        "mq_outbox_oldest_ready_age_seconds",
        "mq_messages_published_total",
        "mq_messages_processed_total",
    }
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_the_pod_monitor_scrapes_the_port_of_the_processes():
    monitor = yaml.safe_load((FOLDER / "components/pod-monitor/pod-monitor.yaml").read_text())

    assert monitor["spec"]["selector"] == {"matchLabels": PART_OF}
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert endpoint["relabelings"][0]["targetLabel"] == "job"
    names = [containers(each)[0]["name"] for each in objects("base", "Deployment").values()]
    assert sorted(names) == ["consumer", "relay"]


def test_a_component_can_be_added_to_an_overlay(tmp_path):
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{_from(tmp_path, 'overlays/keda')}]\n"
        f"components: [{_from(tmp_path, 'components/pod-monitor')}]\n"
    )

    assert "PodMonitor" in {each["kind"] for each in build(tmp_path)}


def _from(directory, name):
    return os.path.relpath(FOLDER / name, directory)
