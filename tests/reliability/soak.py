"""
A long run with random faults: `python -m tests.reliability.soak --minutes 30`.

The run prints its seed, and `--seed` draws the same faults again; their timing depends on the
machine. The exit status is 1 if the checker finds an error, and the report names it.
"""

import argparse
import asyncio
import os
import platform
import random
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]

from tests.benchmarks.conditions import commit
from tests.reliability import report
from tests.reliability.checker import Finding
from tests.reliability.fault_run import FaultRun
from tests.reliability.fault_schedule import ScheduledFault, next_faults
from tests.reliability.guarantees import FindingsError
from tests.reliability.history import read
from tests.reliability.process_faults import FaultNotInjectedError
from tests.reliability.producers import Load
from tests.support.environment import Environment, provision

CALM_EFFECTS = 30
"""So many are waited for between faults, or a recovery could never be seen."""

_NOT_INJECTED = (
    FaultNotInjectedError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
"""A fault that needs a server which another one has just taken away."""


async def soak(run: FaultRun, *, seconds: float, chance: random.Random) -> None:
    """Inject faults for *seconds*; raises AssertionError if no event is applied any more."""
    deadline = time.monotonic() + seconds
    await run.makes_progress(CALM_EFFECTS)
    while time.monotonic() < deadline:
        async with asyncio.TaskGroup() as group:
            for fault in next_faults(chance):
                group.create_task(_inject(run, fault, chance))
        await run.makes_progress(CALM_EFFECTS)


async def _inject(run: FaultRun, fault: ScheduledFault, chance: random.Random) -> None:
    try:
        async with fault.inject(run, chance):
            await run.wait(fault.seconds)
    except _NOT_INJECTED:
        return


async def execute(options: argparse.Namespace) -> list[Finding]:
    """Run the soak, write the report, and return the findings."""
    directory: Path = options.directory
    load = Load(events_per_second=options.rate)
    async with provision() as environment:
        began = await _conditions(environment, options)
        run = FaultRun(environment, directory, load=load, seed=options.seed)
        findings: list[Finding] = []
        try:
            async with run:
                try:
                    chance = random.Random(options.seed)
                    await soak(run, seconds=options.minutes * 60, chance=chance)
                except* AssertionError as stuck:
                    findings += [Finding("stuck", str(each)) for each in stuck.exceptions]
        except FindingsError as broken:
            findings += broken.findings
        history = read(run.history.path)
        summary = report.report(history, run.guarantees, findings, began)
    report.write(summary, directory)
    print(report.markdown(summary))
    return findings


async def _conditions(environment: Environment, options: argparse.Namespace) -> dict[str, str]:
    async with environment.postgres.connection() as connection:
        postgres = str(await connection.fetchval("SHOW server_version"))
    overview = await environment.rabbitmq.http.request("GET", "overview")
    return {
        "minutes of faults": f"{options.minutes:g}",
        "seed": str(options.seed),
        "events a second": f"{options.rate:g}",
        "processes": "2 relays, 2 of a consumer, 2 of an ordered consumer",
        "Postgres": f"{postgres}, fsync on, one node",
        "RabbitMQ": f"{overview['rabbitmq_version']}, quorum queues, one node",
        "Python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long faults strike")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all chance")
    parser.add_argument("--rate", type=float, default=100, help="events a second")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("soak") / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S"),
        help="for the report, the history and all logs",
    )
    return parser.parse_args()


def main() -> int:
    """Run the soak of the command line; returns the exit status."""
    options = _options()
    options.directory = options.directory.resolve()
    options.directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, everything in {options.directory}", flush=True)
    return 1 if asyncio.run(execute(options)) else 0


if __name__ == "__main__":
    sys.exit(main())
