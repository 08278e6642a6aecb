import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.support.processes import ChildProcess
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.fleet import BROKER_VARIABLE, DATABASE_VARIABLE, MANAGEMENT_VARIABLE

# Small counts and one round: the tests check that it runs, not its figures.
QUICK = ("--scale", "0.01", "--rounds", "1", "--only", "throughput", "--only", "latency")
OF_THE_CONSUMER = (
    *("--scale", "0.001", "--rounds", "1"),
    *("--only", "consumer", "--only", "end_to_end", "--only", "dedup"),
)
WITHIN = 180.0


def benchmarks(
    postgres: PostgresServer, rabbitmq: RabbitmqServer, directory: Path, *arguments: str
) -> ChildProcess:
    """A run on the servers of the tests, which writes into *directory*."""
    return ChildProcess(
        [
            sys.executable,
            "-m",
            "tests.benchmarks",
            *arguments,
            "--directory",
            directory / "results",
        ],
        log=directory / "benchmarks.log",
        env={
            DATABASE_VARIABLE: postgres.admin_url,
            BROKER_VARIABLE: rabbitmq.url("/"),
            MANAGEMENT_VARIABLE: rabbitmq.management_url,
            "COLUMNS": "100",
        },
    )


def written(directory: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The results by name, and the conditions."""
    document = json.loads((directory / "results" / "latest.json").read_text())
    return {result["name"]: result for result in document["results"]}, document["conditions"]


async def test_the_benchmark_measures_and_writes_down_what_it_found(
    postgres_server: PostgresServer, rabbitmq_server: RabbitmqServer, tmp_path: Path
):
    async with benchmarks(postgres_server, rabbitmq_server, tmp_path, *QUICK) as run:
        code = await run.wait(within=WITHIN)

        assert code == 0, run.tail
        assert re.search(r"\d of 6 goals met", run.output)
    found, conditions = written(tmp_path)
    assert all(result["value"] > 0 for result in found.values())
    assert found["relay_vs_naive"]["goal"] == "≥ 20"
    assert found["latency_p99_vs_floor"]["met"] in {True, False}
    assert {"Postgres", "RabbitMQ", "cores", "commit"} <= conditions.keys()
    assert "| `relay_vs_gather` |" in (tmp_path / "results" / "latest.md").read_text()


async def test_the_consumer_its_path_and_its_dedup_store_are_measured(
    postgres_server: PostgresServer, rabbitmq_server: RabbitmqServer, tmp_path: Path
):
    async with benchmarks(postgres_server, rabbitmq_server, tmp_path, *OF_THE_CONSUMER) as run:
        code = await run.wait(within=WITHIN)

        assert code == 0, run.tail
        assert re.search(r"\d of 7 goals met", run.output)
    found, _ = written(tmp_path)
    # A purge may have no lock to wait for, and no deadlock.
    assert all(result["value"] > 0 for name, result in found.items() if "_purge_" not in name)
    assert found["dedup_purge_deadlocks"]["value"] == 0
    assert found["consumer_on_batch_vs_handwritten"]["goal"] == "≥ 12"
    assert found["end_to_end_p50_vs_floor"]["met"] in {True, False}
    assert found["dedup_10m_vs_empty"]["met"] in {True, False}


async def test_an_unknown_group_is_refused_before_anything_is_started(tmp_path: Path):
    run = ChildProcess(
        [sys.executable, "-m", "tests.benchmarks", "--only", "everything"],
        log=tmp_path / "benchmarks.log",
    )

    async with run:
        assert await run.wait(within=WITHIN) == 2
        assert "no group everything" in run.output
