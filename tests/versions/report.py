"""
What runs of the tests have found: a line for each version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

WIDTHS = (12, 8, 8, 9)


@dataclass(frozen=True, slots=True)
class Finding:
    """The tests of a run with *server*: how many have passed, and the names of the others."""

    server: str
    passed: int
    others: Sequence[str]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether tests have run, and all of them have passed."""
        return self.passed > 0 and not self.others


def read(server: str, results: Path) -> Finding:
    """Return what the file of *results*, in the format of JUnit, says about *server*."""
    if not results.exists():
        return Finding(server, 0, ["the tests did not start"], 0.0)
    # Written by our own run.
    suite = ET.parse(results).getroot().find("testsuite")  # noqa: S314
    if suite is None:
        return Finding(server, 0, ["the results have no tests"], 0.0)
    cases = suite.findall("testcase")
    others = [f"{case.get('classname')}.{case.get('name')}" for case in cases if len(case)]
    return Finding(server, len(cases) - len(others), others, float(suite.get("time", "0")))


def table(findings: Sequence[Finding]) -> str:
    """Return a table of *findings*, and the names of tests that did not pass."""
    rows = [("server", "passed", "others", "seconds")]
    rows += [
        (each.server, str(each.passed), str(len(each.others)), f"{each.seconds:.0f}")
        for each in findings
    ]
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *(f"{each.server}: {n}" for each in findings for n in each.others)])
