"""
The wheel, built as in the image: with the installed backend, and without a registry.
"""

import json
import subprocess
import sys
from zipfile import ZipFile

from tests.supply_chain.lock import ROOT, SBOM


def test_the_wheel_contains_the_bill_of_materials_where_scanners_look(tmp_path):
    command = [*(sys.executable, "-m", "hatchling", "build", "-t", "wheel"), "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    [path] = tmp_path.glob("*.whl")
    with ZipFile(path) as wheel:
        [name] = [each for each in wheel.namelist() if ".dist-info/sboms/" in each]
        bill = json.loads(wheel.read(name))

    assert name.endswith("/sbom.cdx.json")
    assert bill == json.loads(SBOM.read_text())
