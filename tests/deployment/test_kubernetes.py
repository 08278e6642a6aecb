"""
The manifests of deploy/kubernetes are what Kubernetes, our settings and our metrics say.
"""

import copy
import re

import pytest
import yaml

from consumer.settings import ConsumerSettings
from outbox.runtime.service import ExitCode
from outbox.settings import SharedSettings
from relay.settings import RelaySettings
from tests.support.kubernetes import GROUPS, VERSIONS, violations
from tests.support.kubernetes.manifests import (
    BUILDS,
    PART_OF,
    built,
    containers,
    objects,
    pod,
    workloads,
)
from tests.support.pages import REPOSITORY

PROCESSES = {"outbox-relay": RelaySettings, "outbox-consumer-etl": ConsumerSettings}
JOBS = ("outbox-migrate", "outbox-topology")
CUSTOM = {"keda.sh/v1alpha1"}  # test_kubernetes_scaling.py checks their fields


def environment(workload, container):
    """The settings of *container* but for those in secrets."""
    maps = {name: each["data"] for name, each in objects("base", "ConfigMap").items()}
    shared = [maps[source["configMapRef"]["name"]] for source in container.get("envFrom", ())]
    own = {each["name"]: each["value"] for each in container.get("env", ())}
    return {name: value for each in shared for name, value in each.items()} | own


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BUILDS)
def test_kubernetes_has_every_field(name, version):
    manifests = [each for each in built(name) if each["apiVersion"] not in CUSTOM]

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
    assert not re.search(r"\w+://[^/\s]*:[^/\s]*@", yaml.safe_dump_all(built(name)))


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


def test_every_custom_kind_is_checked_here():
    kinds = {each["apiVersion"] for name in BUILDS for each in built(name)}

    assert kinds <= {*GROUPS} | CUSTOM
