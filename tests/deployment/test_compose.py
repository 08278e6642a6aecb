"""
docker-compose.yml is a file that Compose reads, and its services end, restart and stay small.
"""

import copy
import re

import pytest
import yaml

from tests.support.compose import violations
from tests.support.pages import REPOSITORY

PROCESSES = ("relay", "consumer")
MONITORING = ("prometheus", "grafana")
VALKEY = "valkey"


@pytest.fixture(scope="module")
def composed():
    return yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


def test_compose_has_every_field(composed):
    assert violations(composed) == []


def test_a_misspelt_field_is_found(composed):
    changed = copy.deepcopy(composed)
    changed["services"]["relay"]["restarts"] = "always"

    assert any("restarts" in line for line in violations(changed))


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_cannot_work_is_not_started_for_ever(name, composed):
    assert re.fullmatch(r"on-failure:\d+", composed["services"][name]["restart"])


def test_every_service_has_limits_for_cpu_memory_and_processes(composed):
    for service in composed["services"].values():
        limits = service["deploy"]["resources"]["limits"]
        assert {*limits} == {"cpus", "memory", "pids"}


def test_monitoring_and_another_broker_start_only_on_demand(composed):
    on_demand = {name for name, service in composed["services"].items() if "profiles" in service}

    assert on_demand == {*MONITORING, VALKEY}
    assert all(composed["services"][name]["profiles"] == ["monitoring"] for name in MONITORING)
    assert composed["services"][VALKEY]["profiles"] == [VALKEY]


@pytest.mark.parametrize("name", [*PROCESSES, "migrate", "example-table", *MONITORING])
def test_a_process_has_no_privileges_and_no_disk_to_write_to(name, composed):
    service = composed["services"][name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
