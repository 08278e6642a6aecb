"""
What running processes cost: when they start, when they idle, and beside busy producers.
"""

import asyncio
import json
import socket
import time
from collections import defaultdict

from tests.benchmarks import outbox_rows
from tests.benchmarks.consumption import consuming
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import Rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import START_SECONDS, Program
from tests.benchmarks.results import Result, at_least, at_most, median, of_rounds, ratios
from tests.benchmarks.throughput import last_line
from tests.support import probes

PROCESSES = ("relay", "consumer")
IDLE_SECONDS, IDLE_AFTER_SECONDS = 20.0, 3.0
STARTS = 3
LOOK_EVERY_SECONDS = 0.005
PRODUCERS, LOAD_SECONDS, BACKLOG = 8, 5.0, 120_000
GRACE_SECONDS = 20.0
_PERCENT, _MILLISECONDS = 100, 1_000
_TRIGGERS = """
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'outbox'::regclass AND NOT tgisinternal
"""


async def idle(environment: Environment, plan: Plan) -> list[Result]:
    """Start, memory, and share of a core of an idle relay and an idle consumer."""
    await outbox_rows.empty(environment.database)
    starts: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    async with consuming(environment):
        for number in range(1, plan.rounds + 1):
            for name in PROCESSES:
                starts[name] += [await _start(environment, name) for _ in range(STARTS)]
                async with _process(environment, name) as process:
                    await asyncio.sleep(IDLE_AFTER_SECONDS)
                    began, before = time.monotonic(), process.cpu_seconds
                    await asyncio.sleep(plan.seconds(IDLE_SECONDS))
                    used, took = process.cpu_seconds - before, time.monotonic() - began
                    shares[name].append(used / took * _PERCENT)
                    memory[name].append(process.resident_bytes / 1_000_000)
                plan.say(
                    f"  {name} {number}/{plan.rounds}: {shares[name][-1]:.2f} % of a core, "
                    f"{memory[name][-1]:.0f} MB, ready after {median(starts[name]):.0f} ms"
                )
    return [
        of_rounds(f"{figure}, {name}", values[name], unit, at_most(bound))
        for figure, values, unit, bound in (
            ("idle_cpu_percent", shares, "%", 0.3),
            ("idle_rss_mb", memory, "MB", 60),
            ("start_ms", starts, "ms", 600),
        )
        for name in PROCESSES
    ]


def _process(environment: Environment, name: str, **variables: str) -> Program:
    if name == "relay":
        return environment.relay(**variables)
    return environment.consumer("default", **variables)


async def _start(environment: Environment, name: str) -> float:
    """Milliseconds from the start of the process until its probe says that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = _process(environment, name, MQ_METRICS_PORT=str(port), MQ_METRICS_HOST="127.0.0.1")
    process.announces_itself = False
    async with process:
        async with asyncio.timeout(START_SECONDS):
            while not await _is_ready(port):  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        return (time.monotonic() - process.started_at) * _MILLISECONDS


async def _is_ready(port: int) -> bool:
    try:
        return bool(await probes.get(port, "/readyz"))
    except OSError:
        return False


async def notify(environment: Environment, plan: Plan) -> list[Result]:
    """What waking the relay costs producers while the relay is busy."""
    name = "notify_cost_under_load"
    if not await environment.database.fetchval(_TRIGGERS):
        return [Result(name, None, "×", at_least(0.9), "the table has no trigger")]
    rates: dict[str, list[float]] = defaultdict(list)
    busy = True
    try:
        for number in range(1, plan.rounds + 1):
            for state in ("DISABLE", "ENABLE") if number % 2 else ("ENABLE", "DISABLE"):
                await outbox_rows.empty(environment.database)
                await environment.database.execute(f"ALTER TABLE outbox {state} TRIGGER USER")
                rate, to_the_end = await _transactions_per_second(environment, plan)
                plan.say(
                    f"  trigger {state.lower()}d {number}/{plan.rounds}: {rate:,.0f} commits/s"
                )
                rates[state].append(rate)
                busy = busy and to_the_end
    finally:
        await environment.database.execute("ALTER TABLE outbox ENABLE TRIGGER USER")
        await outbox_rows.empty(environment.database)
    return [
        of_rounds(
            name,
            ratios(rates["ENABLE"], rates["DISABLE"]),
            "×",
            at_least(0.9),
            "" if busy else "the relay was done with its backlog before the end",
        ),
        of_rounds("producers with the trigger", rates["ENABLE"], "transactions/s"),
        of_rounds("producers without it", rates["DISABLE"], "transactions/s"),
    ]


async def _transactions_per_second(environment: Environment, plan: Plan) -> tuple[float, bool]:
    """
    The producers' transactions per second while the relay works on a backlog.

    Also returns whether the backlog lasted until the end.
    """
    seconds, rows = plan.seconds(LOAD_SECONDS), plan.rows(BACKLOG)
    first = await outbox_rows.fill(environment.database, [Rows(rows)])
    async with (
        environment.relay(),
        environment.program(
            "tests.benchmarks.producers", "load", str(PRODUCERS), str(seconds), ready="ready"
        ) as producers,
    ):
        said = json.loads(last_line(await producers.ended(within=seconds + GRACE_SECONDS)))
        oldest = await outbox_rows.first_ready(environment.database)
    return said["transactions"] / said["seconds"], oldest is not None and oldest < first + rows
