"""
An audit that has audited nothing fails.

pip-audit by itself says "No known vulnerabilities found" and exits with 0 if its source knows none
of the packages, as a mirror of a registry does.
"""

import re
import subprocess

from tests.supply_chain.lock import ROOT, versions


def audit():
    done = subprocess.run(
        ["make", "--dry-run", "audit"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return next(line for line in done.stdout.splitlines() if "/pip-audit " in line)


def test_a_package_that_could_not_be_looked_up_fails_the_audit():
    assert "--strict" in audit().split()


def test_the_audit_covers_every_package_of_the_image():
    [path] = re.findall(r"--requirement (\S+)", audit())

    assert path == "requirements/runtime.txt"
    assert len(versions("runtime")) > 30


def test_the_step_of_the_pipeline_hides_no_failure_of_the_audit():
    script = (ROOT / ".ci" / "audit").read_text()
    commands = [line for line in script.splitlines() if line and line[0] != "#"]

    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "make audit"
