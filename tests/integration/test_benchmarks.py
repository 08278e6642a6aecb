import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import programs
from tests.benchmarks.__main__ import app
from tests.support.processes import ChildProcess, PreparedProcess
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.fleet import BROKER_VARIABLE, DATABASE_VARIABLE, MANAGEMENT_VARIABLE

# Small counts and one round: the tests check that it runs, not its figures.
QUICK = ("--scale", "0.001", "--rounds", "1", "--no-peers")
OF_THE_RELAY = ("--only", "throughput", "--only", "latency")
OF_THE_CONSUMER = ("--only", "consumer", "--only", "end_to_end", "--only", "dedup")


@pytest.fixture
def run(
    postgres_server: PostgresServer,
    rabbitmq_server: RabbitmqServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Run the command in this process, and its thirty programs with their imports done."""
    monkeypatch.setenv(DATABASE_VARIABLE, postgres_server.admin_url)
    monkeypatch.setenv(BROKER_VARIABLE, rabbitmq_server.url("/"))
    monkeypatch.setenv(MANAGEMENT_VARIABLE, rabbitmq_server.management_url)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(programs, "ChildProcess", PreparedProcess)

    def run(*arguments: str) -> str:
        app([*arguments, "--directory", str(tmp_path / "results")], standalone_mode=False)
        return capsys.readouterr().out

    return run


def written(directory: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The results by name, and the conditions."""
    document = json.loads((directory / "results" / "latest.json").read_text())
    return {result["name"]: result for result in document["results"]}, document["conditions"]


def test_the_benchmark_writes_its_results(run, tmp_path: Path):
    assert re.search(r"\d of [56] goals met", run(*QUICK, *OF_THE_RELAY))

    found, conditions = written(tmp_path)
    assert all(result["value"] is None or result["value"] >= 0 for result in found.values())
    assert found["relay_vs_best_peer"]["value"] is None
    assert found["relay_vs_gather"]["value"] > 0
    assert found["latency_vs_handwritten, p99"]["met"] in {True, False}
    assert {"Postgres", "RabbitMQ", "cores", "commit"} <= conditions.keys()
    assert "| `relay_vs_gather` |" in (tmp_path / "results" / "latest.md").read_text()


def test_the_consumer_its_path_and_its_dedup_store_are_measured(run, tmp_path: Path):
    assert re.search(r"\d of 8 goals met", run(*QUICK, *OF_THE_CONSUMER))

    found, _ = written(tmp_path)
    # A purge may have no lock to wait for, and few messages take less time than is measured.
    may_be_none = ("_purge_", "CPU")
    for name, result in found.items():
        least = 0 if any(each in name for each in may_be_none) else 1e-9
        assert result["value"] >= least, name
    assert found["dedup_purge_deadlocks"]["value"] == 0
    assert found["consumer_on_batch_vs_handwritten_batch"]["goal"] == "≥ 4"
    assert found["end_to_end_p50_vs_floor"]["met"] in {True, False}
    assert found["dedup_10m_vs_empty"]["met"] in {True, False}


async def test_an_unknown_group_is_refused_before_anything_is_started(tmp_path: Path):
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "everything"]
    async with ChildProcess(command, log=tmp_path / "benchmarks.log") as child:
        assert await child.wait() == 2
        assert "no group everything" in child.output
