"""Deployment files and examples agree with the code."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from consumer.settings import ConsumerSettings
from outbox.settings import SharedSettings
from relay.settings import RelaySettings

ROOT = Path(__file__).parents[2]
KINDS = (SharedSettings, RelaySettings, ConsumerSettings)
SETTINGS = {f"MQ_{name.upper()}" for kind in KINDS for name in kind.model_fields}
JOBS = {"migrate", "example-table"}
PROCESSES = {"relay": RelaySettings, "consumer": ConsumerSettings}


def read(name):
    return (ROOT / name).read_text()


def uncommented(name):
    return [line for line in read(name).splitlines() if line and not line.startswith("#")]


def shown_in_example():
    return dict(re.findall(r"^(?:# )?(MQ_[A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))


def environment_of(service):
    """The service's environment, with a password for each `${…}`."""
    return {
        name: re.sub(r"\$\{\w+:\?[^}]*\}", "S3cret", str(value))
        for name, value in service["environment"].items()
    }


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(read("docker-compose.yml"))["services"]


def test_the_example_environment_names_every_setting_and_no_other():
    assert set(shown_in_example()) == SETTINGS


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_environment_shows_the_defaults(kind, clean_environment):
    defaults = kind().model_dump()

    for name, value in shown_in_example().items():
        if name != "MQ_DATABASE_SCHEMA":  # the default, a SQLite file, has no schemas
            clean_environment.setenv(name, value)
    shown = kind().model_dump()

    unset = {name for name, value in defaults.items() if value is None}
    assert {name: shown[name] for name in shown if name not in unset} == {
        name: defaults[name] for name in defaults if name not in unset
    }


def test_the_example_environment_sets_no_password():
    assert set(uncommented(".env.example")) == {"POSTGRES_PASSWORD=", "RABBITMQ_PASSWORD="}


def test_the_documentation_has_every_setting():
    page = read("docs/reference/settings.md")

    assert {name for name in SETTINGS if f"`{name}`" not in page} == set()


def test_every_variable_of_the_compose_file_is_a_setting():
    assert set(re.findall(r"\bMQ_[A-Z_]+(?=: )", read("docker-compose.yml"))) <= SETTINGS


@pytest.mark.parametrize("name", PROCESSES)
def test_a_composed_process_accepts_its_environment(name, services, clean_environment):
    for variable, value in environment_of(services[name]).items():
        clean_environment.setenv(variable, value)

    settings = PROCESSES[name]()

    assert settings.database.host == "postgres"
    assert [url.host for url in settings.brokers] == ["rabbitmq"]
    assert f":{settings.metrics_port}/readyz" in str(services[name]["healthcheck"]["test"])


def test_the_compose_file_has_no_password_and_no_guest(services):
    texts = [
        str(value)
        for service in services.values()
        for value in service.get("environment", {}).items()
    ]

    assert "guest" not in read("docker-compose.yml")
    for text in texts:
        if re.search(r"PASS|://", text):
            assert re.search(r"\$\{\w+_PASSWORD:\?[^}]+\}", text)


def test_every_service_has_a_health_check_or_is_a_job(services):
    assert {name for name, service in services.items() if "healthcheck" not in service} == JOBS
    assert {name for name, service in services.items() if service["restart"] == "no"} == JOBS


@pytest.mark.parametrize("name", PROCESSES)
def test_a_composed_process_waits_for_the_migration_and_the_broker(name, services):
    waits = {other: how["condition"] for other, how in services[name]["depends_on"].items()}

    assert waits["migrate"] == "service_completed_successfully"
    assert waits["rabbitmq"] == "service_healthy"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_published_ports_are_on_loopback(services):
    ports = [port for service in services.values() for port in service.get("ports", ())]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_path_mounted_from_the_checkout_exists(services):
    mounts = [mount for service in services.values() for mount in service.get("volumes", ())]
    local = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]

    assert local
    assert all((ROOT / path).exists() for path in local)


def test_containers_have_time_to_drain(services):
    for name, kind in PROCESSES.items():
        grace = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace > kind.model_fields["drain_seconds"].default


def test_the_image_has_everything_that_the_wheel_is_made_of():
    build = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    allowed = {line.removeprefix("!") for line in uncommented(".dockerignore") if line[0] == "!"}

    assert {
        *build["packages"],
        *build["force-include"],
        *build["sbom-files"],
        "README.md",
        "LICENSE",
    } <= allowed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_every_make_command_on_a_page_exists(page):
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    lines = re.findall(r"(?:^|`)make ([a-z][a-z ]*)", read(page), re.MULTILINE)

    assert lines
    assert {target for line in lines for target in line.split()} <= targets


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []
