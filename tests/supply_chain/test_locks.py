"""
The locks in `requirements/`: every version has hashes, and pyproject.toml allows it.
"""

import json
import re
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.supply_chain.distributions import PYPROJECT, direct
from tests.supply_chain.lock import (
    OTHER_CLIENTS,
    OTHER_VERSIONS,
    PEERS,
    REQUIREMENTS,
    ROOT,
    SBOM,
    versions,
)

GROUPS = PYPROJECT["dependency-groups"]
RUNTIME = direct("all")
DIRECT = {
    "runtime": RUNTIME,
    "dev": [*RUNTIME, *direct("dev")],
    "docs": [*RUNTIME, *direct("docs")],
    "build": GROUPS["build"],
    "tools": GROUPS["tools"],
    "lowest": [*RUNTIME, *direct("dev")],
}
PIN = re.compile(r"[a-z0-9.-]+==[\w.!+]+( ; .+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n|\n))+")


PAGE = ROOT / "docs" / "how-to" / "other-clients.md"
PEER_NAMES = sorted(path.stem for path in PEERS.glob("*.in"))


def named(requirements):
    found = {}
    for each in map(Requirement, requirements):
        name = canonicalize_name(each.name)
        if name in found:  # named without a version, for an extra of it
            each.specifier &= found[name].specifier
        found[name] = each
    return found


@pytest.mark.parametrize("name", DIRECT)
def test_every_line_of_a_lock_is_a_version_with_its_hashes(name):
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    pins = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")

    assert PIN.sub("", pins) == ""
    assert len(versions(name)) > 1


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_peer_of_the_benchmarks_is_locked_with_hashes_and_drivers_of_the_product(name):
    text = (PEERS / f"{name}.txt").read_text()
    wanted = named((PEERS / f"{name}.in").read_text().splitlines())
    locked, runtime = versions(name, directory=PEERS), versions("runtime")

    assert PIN.sub("", "".join(each for each in text.splitlines(True) if each[0] != "#")) == ""
    assert wanted.keys() <= locked.keys()
    assert all(locked[each] in requirement.specifier for each, requirement in wanted.items())
    assert {each: locked[each] for each in ("asyncpg", "uvloop", "aio-pika")}.items() <= (
        runtime.items()
    )


@pytest.mark.parametrize("name", ["python", "node"])
def test_the_clients_of_a_page_are_locked_with_hashes_in_the_versions_that_it_names(name):
    text = (OTHER_CLIENTS / f"{name}.txt").read_text()
    locked = versions(name, directory=OTHER_CLIENTS)

    assert PIN.sub("", "".join(each for each in text.splitlines(True) if each[0] != "#")) == ""
    for wanted in (OTHER_CLIENTS / f"{name}.in").read_text().splitlines():
        package, _, version = re.sub(r"\[\w+\]", "", wanted).partition("==")
        assert locked[package] == version
        assert name == "node" or version in PAGE.read_text(), package


def test_the_clients_for_node_are_locked_with_hashes_and_no_address():
    wanted = json.loads((OTHER_CLIENTS / "package.json").read_text())["dependencies"]
    locked = json.loads((OTHER_CLIENTS / "package-lock.json").read_text())["packages"]

    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all(version in PAGE.read_text() for version in wanted.values())
    assert all("resolved" not in each for each in locked.values())
    assert all("integrity" in each for path, each in locked.items() if path)


def test_the_other_versions_of_servers_are_locked_with_hashes_and_no_address():
    wanted = json.loads((OTHER_VERSIONS / "package.json").read_text())["dependencies"]
    locked = json.loads((OTHER_VERSIONS / "package-lock.json").read_text())["packages"]
    packages = {name: locked[f"node_modules/{name}"] for name in wanted}

    found = {name: f"npm:{each['name']}@{each['version']}" for name, each in packages.items()}
    assert found == wanted
    assert set(locked) == {"", *(f"node_modules/{name}" for name in wanted)}
    assert all("integrity" in each and "resolved" not in each for each in packages.values())


def test_every_lock_is_tested():
    assert {path.stem for path in REQUIREMENTS.iterdir()} == set(DIRECT)


@pytest.mark.parametrize("name", DIRECT)
def test_a_lock_has_every_direct_dependency_in_a_version_that_is_allowed(name):
    locked = versions(name)

    for package, requirement in named(DIRECT[name]).items():
        assert locked[package] in requirement.specifier, package


@pytest.mark.parametrize("name", ["dev", "docs"])
def test_the_tests_and_the_site_run_with_the_versions_of_the_image(name):
    assert versions("runtime").items() <= versions(name).items()


def test_the_wheel_is_built_in_the_image_as_in_the_tests():
    build, dev = versions("build"), versions("dev")

    assert build["hatchling"] == dev["hatchling"]
    assert named(GROUPS["build"]).keys() >= named(PYPROJECT["build-system"]["requires"]).keys()


def test_the_oldest_versions_are_the_lower_bounds_of_the_runtime():
    locked = versions("lowest")

    for package, requirement in named(RUNTIME).items():
        [bound] = [each.version for each in requirement.specifier if each.operator == ">="]
        lowest = Version(locked[package])
        assert lowest.release[: len(Version(bound).release)] == Version(bound).release, package


def test_the_bill_of_materials_has_every_package_of_the_image():
    bill = json.loads(SBOM.read_text())
    listed = {
        each["purl"].removeprefix("pkg:pypi/").rpartition("@")[::2] for each in bill["components"]
    }
    # for Windows, and for Python before 3.11.3
    elsewhere = {"async-timeout", "colorama", "tzdata"}
    locked = {each for each in versions("runtime").items() if each[0] not in elsewhere}

    assert bill["bomFormat"] == "CycloneDX"
    assert {each["name"] for each in chain([bill["metadata"]["component"]])} == {"outbox-relay"}
    assert listed == locked
    assert all(each.get("licenses") for each in bill["components"])


@pytest.mark.parametrize("place", ["Dockerfile", "Makefile"])
def test_nothing_is_installed_without_hashes_but_the_project_itself(place):
    text = (ROOT / place).read_text().replace("\\\n", " ")
    commands = [
        each
        for each in re.split(r"\n|&&", text)
        if re.search(r"\binstall .*-[re]\b|install .*whl", each)
    ]

    assert commands
    for command in commands:
        is_locked = "--require-hashes" in command or "$(LOCKED)" in command
        is_project = "--no-index" in command or "$(UNLOCKED)" in command
        assert is_locked or is_project, command


def test_no_build_of_the_project_fetches_its_backend():
    image, makefile = ((ROOT / name).read_text() for name in ("Dockerfile", "Makefile"))

    assert re.search(r"pip wheel .*--no-build-isolation", image)
    assert "UNLOCKED := --no-deps --no-build-isolation" in makefile
    assert "LOCKED := --require-hashes" in makefile
