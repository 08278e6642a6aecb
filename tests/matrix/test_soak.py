"""
A long run, cut short: it draws its faults, and leaves a report.
"""

import json
import sys

import pytest

from tests.support.processes import ChildProcess


@pytest.mark.timeout(600)
async def test_a_short_soak_writes_a_report_and_exits_with_its_verdict(
    tmp_path,
):
    directory = tmp_path / "soak"
    words = ("--minutes", "0.3", "--seed", "4", "--directory", directory)
    async with ChildProcess(
        [sys.executable, "-m", "tests.reliability.soak", *words], log=tmp_path / "log"
    ) as soak:
        assert await soak.wait(within=540) == 0, soak.output

    summary = json.loads((directory / "report.json").read_text())
    assert summary["findings"] == []
    assert summary["events"] > 100
    assert summary["effects"] > summary["events"]
    assert summary["faults"]
    assert summary["conditions"]["seed"] == "4"
    assert "| lost | 0 |" in (directory / "report.md").read_text().splitlines()
    assert "seed 4" in soak.output
