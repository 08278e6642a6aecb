"""
What a running relay costs: on an idle machine, and beside busy producers.
"""

import asyncio
import json
import time
from collections import defaultdict

from tests.benchmarks import outbox_rows
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import Rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import Result, at_least, at_most, median, median_ratio
from tests.benchmarks.throughput import last_line

IDLE_SECONDS, IDLE_AFTER_SECONDS = 15.0, 3.0
PRODUCERS, LOAD_SECONDS, BACKLOG = 8, 5.0, 120_000
GRACE_SECONDS = 20.0
_PERCENT = 100
_TRIGGERS = """
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'outbox'::regclass AND NOT tgisinternal
"""


async def idle(environment: Environment, plan: Plan) -> list[Result]:
    """The share of a core that an idle relay uses."""
    await outbox_rows.empty(environment.database)
    shares = []
    async with environment.relay() as relay:
        await asyncio.sleep(IDLE_AFTER_SECONDS)
        for number in range(1, plan.rounds + 1):
            began, before = time.monotonic(), relay.cpu_seconds
            await asyncio.sleep(plan.seconds(IDLE_SECONDS) / plan.rounds)
            used, took = relay.cpu_seconds - before, time.monotonic() - began
            shares.append(used / took * _PERCENT)
            plan.say(f"  idle {number}/{plan.rounds}: {shares[-1]:.2f} % of a core")
        memory = relay.resident_bytes / 1_000_000
    whole = sum(shares) / len(shares)
    return [
        Result("idle_cpu_percent", whole, "%", at_most(1)),
        Result("idle: resident memory", memory, "MB"),
    ]


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
        Result(
            name,
            median_ratio(rates["ENABLE"], rates["DISABLE"]),
            "×",
            at_least(0.9),
            "" if busy else "the relay was done with its backlog before the end",
        ),
        Result("producers with the trigger", median(rates["ENABLE"]), "transactions/s"),
        Result("producers without it", median(rates["DISABLE"]), "transactions/s"),
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
