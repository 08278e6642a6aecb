"""
Whether rows with an ordering key, or a later time, slow down the other rows.
"""

import time
from collections import defaultdict

from tests.benchmarks import outbox_rows
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import Rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.progress import watch
from tests.benchmarks.results import Result, at_least, of_rounds, ratios

FREE_ROWS, OTHER_ROWS = 40_000, 100_000
LONGEST_SECONDS = 20.0


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    count = plan.rows(OTHER_ROWS)
    others = {
        "none": [],
        "blocked_key": [Rows(count, "benchmark", waiting="first")],
        "hot_key": [Rows(count, "benchmark")],
        "scheduled": [Rows(count, waiting="all")],
    }
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for name, rows in others.items():
            rate = await _rate(environment, rows, plan.rows(FREE_ROWS))
            plan.say(f"  {name} {number}/{plan.rounds}: {rate:,.0f}/s")
            rates[name].append(rate)
    await outbox_rows.empty(environment.database)
    return [
        *(
            of_rounds(f"{name}_vs_none", ratios(rates[name], rates["none"]), "×", at_least(0.8))
            for name in others
            if name != "none"
        ),
        *(of_rounds(f"{name}: rate", some, "rows/s") for name, some in rates.items()),
    ]


async def _rate(environment: Environment, others: list[Rows], free: int) -> float:
    """
    Rows without a key per second, beside the *others*, which are older.

    The relay starts when all rows exist, so its first poll finds all rows without a key.
    """
    await outbox_rows.empty(environment.database)
    first = await outbox_rows.fill(environment.database, [*others, Rows(free)])
    await outbox_rows.settle_down(environment.database)
    await environment.purge()
    began = time.monotonic()
    async with environment.relay() as relay:
        curve = await watch(
            environment, relay, first=first, rows=free, began=began, within=LONGEST_SECONDS
        )
    going = curve.under_way(free)
    return going.rate(going.samples[0].gone)
