"""
The manifests of deploy/kubernetes are what Kubernetes, our settings and our metrics say.
"""

import copy
import os
import re
from functools import cache

import pytest
import yaml

from consumer.settings import ConsumerSettings
from examples.etl import etl
from outbox.runtime.service import ExitCode
from outbox.settings import SharedSettings
from relay.settings import RelaySettings
from tests.support.installation import DEFINITIONS
from tests.support.kubernetes import GROUPS, VERSIONS, build, violations
from tests.support.pages import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
BUILDS = ("base", "prepare", "overlays/hpa", "overlays/keda")
PROCESSES = {"outbox-relay": RelaySettings, "outbox-consumer-etl": ConsumerSettings}
JOBS = ("outbox-migrate", "outbox-topology")
QUEUE = f"{ConsumerSettings.model_fields['processing_queue'].default}.{etl.name}"
PART_OF = {"app.kubernetes.io/part-of": "outbox-relay"}
CUSTOM = {"keda.sh/v1alpha1"}

# The fields of KEDA 2.15 to 2.18: https://keda.sh/docs/2.18/reference/scaledobject-spec/ and the
# pages prometheus and rabbitmq of https://keda.sh/docs/2.18/scalers/.
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


@cache
def _built(name):
    return build(FOLDER / name)


def objects(name, kind):
    return {each["metadata"]["name"]: each for each in _built(name) if each["kind"] == kind}


def pod(workload):
    return workload["spec"]["template"]["spec"]


def workloads():
    return [
        *objects("base", "Deployment").values(),
        *objects("prepare", "Job").values(),
    ]


def containers(workload):
    return [*pod(workload).get("initContainers", ()), *pod(workload)["containers"]]


def environment(workload, container):
    """The settings of *container* but for those in secrets."""
    maps = {name: each["data"] for name, each in objects("base", "ConfigMap").items()}
    shared = [maps[source["configMapRef"]["name"]] for source in container.get("envFrom", ())]
    own = {each["name"]: each["value"] for each in container.get("env", ())}
    return {name: value for each in shared for name, value in each.items()} | own


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BUILDS)
def test_kubernetes_has_every_field(name, version):
    manifests = [each for each in _built(name) if each["apiVersion"] not in CUSTOM]

    assert manifests
    for manifest in manifests:
        assert violations(manifest, version) == []


def test_a_misspelt_field_is_found():
    [deployment] = [copy.deepcopy(objects("base", "Deployment")["outbox-relay"])]
    pod(deployment)["terminationGracePeriodSecond"] = 40

    assert any("terminationGracePeriodSecond" in line for line in violations(deployment, "1.31"))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_accepts_its_settings(name, clean_environment, tmp_path):
    deployment = objects("base", "Deployment")[name]
    [container] = containers(deployment)
    settings = environment(deployment, container)
    (tmp_path / "MQ_DATABASE_URL").write_text("postgresql://a@db.example/a?sslmode=verify-full")
    (tmp_path / "MQ_BROKER_URL").write_text("amqps://a:b@mq.example/outbox")
    assert settings["MQ_SECRETS_DIR"] == container["volumeMounts"][0]["mountPath"]
    for variable, value in (settings | {"MQ_SECRETS_DIR": str(tmp_path)}).items():
        clean_environment.setenv(variable, value)

    read = PROCESSES[name]()

    assert {variable.lower().removeprefix("mq_") for variable in settings} <= {
        *SharedSettings.model_fields,
        *PROCESSES[name].model_fields,
        "secrets_dir",
    }
    assert read.database.host == "db.example"
    [port] = container["ports"]
    assert port["containerPort"] == read.metrics_port
    assert pod(deployment)["terminationGracePeriodSeconds"] > read.drain.total_seconds()


@pytest.mark.parametrize("name", PROCESSES)
def test_probes_ask_the_paths_of_the_process(name):
    [container] = containers(objects("base", "Deployment")[name])

    for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}


@pytest.mark.parametrize("name", [*PROCESSES, *JOBS])
def test_a_pod_satisfies_the_restricted_pod_security_standard(name):
    [workload] = [each for each in workloads() if each["metadata"]["name"] == name]
    security = pod(workload)["securityContext"]

    assert security["runAsNonRoot"]
    assert security["runAsUser"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(workload)["enableServiceLinks"] is False
    assert pod(workload)["automountServiceAccountToken"] is False
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_image_has_the_user_of_the_pods():
    assert "--uid 10001" in (REPOSITORY / "Dockerfile").read_text()


@pytest.mark.parametrize("name", BUILDS)
def test_secrets_are_only_referred_to(name):
    assert objects(name, "Secret") == {}
    assert not re.search(r"\w+://[^/\s]*:[^/\s]*@", yaml.safe_dump_all(_built(name)))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_not_tried_again_with_a_bad_configuration(name):
    job = objects("prepare", "Job")[name]
    rules = job["spec"]["podFailurePolicy"]["rules"]

    failing = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob"]
    assert {codes["containerName"] for codes in failing} == {
        each["name"] for each in containers(job)
    }
    assert {tuple(codes["values"]) for codes in failing} == {(ExitCode.BAD_CONFIGURATION,)}
    assert pod(job)["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_disruption_budget_and_spread_select_the_pods_of_each_process(name):
    deployment = objects("base", "Deployment")[name]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    budget = objects("base", "PodDisruptionBudget")[name]["spec"]

    assert budget["selector"]["matchLabels"].items() <= labels
    assert budget["maxUnavailable"] < deployment["spec"]["replicas"]
    for spread in pod(deployment)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels


def test_policies_deny_all_but_servers_names_and_the_scrapes_of_monitoring():
    policies = objects("base", "NetworkPolicy")
    everywhere = {"matchLabels": PART_OF}
    assert {str(each["spec"]["podSelector"]) for each in policies.values()} == {str(everywhere)}
    for workload in workloads():
        assert PART_OF.items() <= workload["spec"]["template"]["metadata"]["labels"].items()

    assert policies["outbox-default-deny"]["spec"] == {
        "podSelector": everywhere,
        "policyTypes": ["Ingress", "Egress"],
    }
    rules = policies["outbox-to-servers"]["spec"]["egress"]
    assert all(rule["to"] for rule in rules)
    ports = [port["port"] for rule in rules for port in rule["ports"]]
    assert ports == [53, 53, 5432, 5671, 15671]
    [scrapes] = policies["outbox-metrics"]["spec"]["ingress"]
    assert scrapes["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert [port["port"] for port in scrapes["ports"]] == ["metrics"]


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


def test_every_custom_kind_is_checked_here():
    kinds = {each["apiVersion"] for name in BUILDS for each in _built(name)}

    assert kinds <= {*GROUPS} | CUSTOM
