"""
The wheel, built as in the image: with the installed backend, and without a registry.
"""

import json
import subprocess
import sys
from zipfile import ZipFile

import pytest

from tests.supply_chain.lock import ROOT, SBOM
from tests.support.commands import CommandLine


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory):
    """Build the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [*(sys.executable, "-m", "hatchling", "build", "-t", "wheel"), "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = directory.glob("*.whl")
    return path


def test_the_wheel_contains_the_bill_of_materials_where_scanners_look(wheel_path):
    with ZipFile(wheel_path) as wheel:
        [name] = [each for each in wheel.namelist() if ".dist-info/sboms/" in each]
        bill = json.loads(wheel.read(name))

    assert name.endswith("/sbom.cdx.json")
    assert bill == json.loads(SBOM.read_text())


def test_the_files_of_the_wheel_print_the_migrations_of_a_schema(wheel_path, tmp_path):
    installed = tmp_path / "installed"
    with ZipFile(wheel_path) as wheel:
        wheel.extractall(installed)
    settings = {"MQ_DATABASE_URL": "postgresql://db.invalid/app?sslmode=verify-full"}

    printed = subprocess.run(
        [sys.executable, "-m", "relay", "migrate", "--sql", "--schema", "mq"],
        cwd=tmp_path,
        env=settings | {"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )

    assert printed.stderr == ""
    in_checkout = CommandLine(tmp_path)("relay", "migrate", "--sql", "--schema", "mq", **settings)
    assert printed.stdout == in_checkout.out
    assert 'SET search_path TO "mq";' in printed.stdout
