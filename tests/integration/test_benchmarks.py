import json
import re
import sys
from pathlib import Path

from tests.support.processes import ChildProcess
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.fleet import BROKER_VARIABLE, DATABASE_VARIABLE, MANAGEMENT_VARIABLE

# Small counts and one round: what is tested is that it runs, not what it finds.
QUICK = ("--scale", "0.01", "--rounds", "1", "--only", "throughput", "--only", "latency")
WITHIN = 90.0


async def test_the_benchmark_measures_and_writes_down_what_it_found(
    postgres_server: PostgresServer, rabbitmq_server: RabbitmqServer, tmp_path: Path
):
    results = tmp_path / "results"
    run = ChildProcess(
        [sys.executable, "-m", "benchmarks", *QUICK, "--directory", results],
        log=tmp_path / "benchmarks.log",
        env={
            DATABASE_VARIABLE: postgres_server.admin_url,
            BROKER_VARIABLE: rabbitmq_server.url("/"),
            MANAGEMENT_VARIABLE: rabbitmq_server.management_url,
            "COLUMNS": "100",
        },
    )

    async with run:
        code = await run.wait(within=WITHIN)

        assert code == 0, run.tail
        assert re.search(r"\d of 6 goals met", run.output)
    document = json.loads((results / "latest.json").read_text())
    found = {result["name"]: result for result in document["results"]}
    assert all(result["value"] > 0 for result in found.values())
    assert found["relay_vs_naive"]["goal"] == "≥ 20"
    assert found["latency_p99_vs_floor"]["met"] in {True, False}
    assert {"Postgres", "RabbitMQ", "cores", "commit"} <= document["conditions"].keys()
    assert "| `relay_vs_gather` |" in (results / "latest.md").read_text()


async def test_an_unknown_group_is_refused_before_anything_is_started(tmp_path: Path):
    run = ChildProcess(
        [sys.executable, "-m", "benchmarks", "--only", "everything"],
        log=tmp_path / "benchmarks.log",
    )

    async with run:
        assert await run.wait(within=WITHIN) == 2
        assert "no group everything" in run.output
