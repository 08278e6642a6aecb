"""
The whole way on SQLite, beside an earlier build of the product.
"""

import asyncio
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tests.benchmarks import peer_programs
from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.environment import Environment, inherited
from tests.benchmarks.peer_programs import Unavailable
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program, together
from tests.benchmarks.results import Result, at_least, of_rounds, ratios
from tests.benchmarks.throughput import WrongCountError
from tests.support.processes import REPOSITORY

BEFORE = "27df79d7e1c9da72a5e022bfce4524a44d0dd854"
"""The build that the embedded default is compared with."""
EVENTS = {"before": 2_000, "today": 20_000}
LOOK_EVERY_SECONDS = 0.05
LONGEST_SECONDS = 30.0
APPLICATION = Path(__file__).parent / "embedded_app.py"
_WORKERS = (1, 2)


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    builds = {"today": sys.executable}
    reason = ""
    try:
        builds = {"before": str(await asyncio.to_thread(_before)), **builds}
    except Unavailable as missing:
        reason = str(missing)
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for workers in _WORKERS:
            for build, python in builds.items():
                count = plan.rows(EVENTS[build])
                rate = await _rate(environment.directory, python, workers, count)
                plan.say(f"  {build}, {workers} worker(s) {number}/{plan.rounds}: {rate:,.0f}/s")
                rates[f"{build}, {workers}"].append(rate)
    return figures(rates, reason)


def figures(rates: Mapping[str, Sequence[float]], reason: str = "") -> list[Result]:
    """The figures of the *rates*; *reason* says why the earlier build has none."""
    found = []
    for workers in _WORKERS:
        name = f"embedded_vs_before, {workers} worker{'s' if workers > 1 else ''}"
        today, before = rates[f"today, {workers}"], rates.get(f"before, {workers}")
        found.append(
            of_rounds(name, ratios(today, before), "×", at_least(15))
            if before
            else Result(name, None, "×", at_least(15), reason)
        )
    return [
        *found,
        *(of_rounds(f"embedded {name}: rate", some, "events/s") for name, some in rates.items()),
    ]


def _before() -> Path:
    """The interpreter of an environment with the earlier build, made once."""
    source = peer_programs.CACHE / f"before-source-{BEFORE[:7]}"
    if not source.exists():
        archive = subprocess.run(
            ["git", "archive", BEFORE], cwd=REPOSITORY, capture_output=True, check=False
        )
        if archive.returncode:
            raise Unavailable(f"commit {BEFORE[:7]} is not in this repository")
        source.mkdir(parents=True)
        subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
    # Its own lock has versions and no hashes; the tools that build it are today's.
    build = ["-r", str(REPOSITORY / "requirements" / "build.txt")]
    locked = ["--constraint", str(source / "constraints.txt"), str(source)]
    return peer_programs.environment("before", BEFORE, sys.executable, build, locked)


async def _rate(root: Path, python: str, workers: int, count: int) -> float:
    """Events per second from the first commit of the producer to the last effect."""
    directory = root / f"embedded-{secrets.token_hex(4)}"
    directory.mkdir()
    shutil.copy(APPLICATION, directory)

    def program(name: str, *command: str, ready: str) -> Program:
        return Program(
            [python, "-m", *command],
            log=directory / f"{name}.log",
            environment={
                **inherited(),
                "PYTHONPATH": str(directory),
                "PYTHONUNBUFFERED": "1",
                "MQ_DATABASE_URL": f"sqlite:///{directory}/outbox.db",
                "MQ_BROKER_URL": f"sqlite:///{directory}/broker.db",
                "MQ_METRICS_PORT": "0",
                "MQ_LOG_FORMAT": "json",
            },
            directory=directory,
            ready=ready,
            is_foreign=True,
        )

    try:
        async with program("migrate", "relay", "migrate", ready="") as migrating:
            await migrating.ended(within=LONGEST_SECONDS)
        async with program("create", "embedded_app", "create", ready="") as creating:
            await creating.ended(within=LONGEST_SECONDS)
        run = ("consumer", "run", "embedded_app:app")
        consumers = [
            program(f"consumer-{number}", *run, ready="consumer_started")
            for number in range(workers)
        ]
        relay = program("relay", "relay", "run", ready="relay_started")
        producer = program("producer", "embedded_app", "produce", str(count), ready="ready")
        async with together([*consumers, relay]), producer:
            curve = await _watched(directory / "outbox.db", [*consumers, relay], count)
        return curve.rate()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _watched(file: Path, programs: Sequence[Program], count: int) -> DrainCurve:
    samples = [Sample(time.monotonic(), 0)]
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        while samples[-1].gone < count and samples[-1].at - samples[0].at < LONGEST_SECONDS:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            for each in programs:
                each.check()
            [(effects,)] = database.execute("SELECT count(*) FROM effects")
            samples.append(Sample(time.monotonic(), effects))
        [(effects, different)] = database.execute(
            "SELECT count(*), count(DISTINCT message_id) FROM effects"
        )
    if effects != different or effects > count:
        raise WrongCountError(f"{count} events had {effects} effects")
    return DrainCurve(samples)
