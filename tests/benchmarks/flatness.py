"""
Whether the relay slows down: with old snapshots, with a large backlog, over time.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]

from tests.benchmarks import outbox_rows
from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import Rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.progress import watch
from tests.benchmarks.results import Result, at_least, at_most, of_rounds, ratio, ratios

PINNED_ROWS = 300_000
LARGE, SMALL, LOOKED_AT = 1_000_000, 100_000, 60_000
SETTLED_AFTER = 50_000
LONGEST_SECONDS = 60.0
LONGEST_DRAIN_SECONDS = 120.0
_MEGABYTE = 1_000_000


async def pinned(environment: Environment, plan: Plan) -> list[Result]:
    """The last tenth against the first while dead rows cannot be removed."""
    rows = plan.rows(PINNED_ROWS)
    courses: list[DrainCurve] = []
    for number in range(1, plan.rounds + 1):
        await outbox_rows.empty(environment.database)
        first_id = await outbox_rows.fill(environment.database, [Rows(rows)])
        await outbox_rows.settle_down(environment.database)
        async with _old_snapshot(environment):
            courses.append(await _emptied(environment, first_id, rows, within=LONGEST_SECONDS))
        first, last = tenths(courses[-1], rows)
        plan.say(f"  old snapshot {number}/{plan.rounds}: {first:,.0f}/s, then {last:,.0f}/s")
    pairs = [tenths(curve, rows) for curve in courses]
    least = min(curve.gone for curve in courses)
    return [
        of_rounds(
            "pinned_snapshot_last_vs_first",
            (ratio(last, first) for first, last in pairs),
            "×",
            at_least(0.9),
            "" if least == rows else f"cut after {LONGEST_SECONDS:g} s with {least:,} rows gone",
        ),
        of_rounds("old snapshot: first tenth", (first for first, _ in pairs), "rows/s"),
        of_rounds("old snapshot: last tenth", (last for _, last in pairs), "rows/s"),
    ]


def tenths(curve: DrainCurve, rows: int) -> tuple[float, float]:
    """The rate over a tenth of *rows* from the start on, and over as many before the end."""
    going = curve.under_way(rows)
    begin, tenth = going.samples[0].gone, rows // 10
    return going.rate(begin, begin + tenth), going.rate(going.gone - tenth, going.gone)


async def backlog(environment: Environment, plan: Plan) -> list[Result]:
    """A large backlog against a small one; the last large one is emptied for the memory."""
    sizes = {"large": plan.rows(LARGE), "small": plan.rows(SMALL)}
    rates: dict[str, list[float]] = defaultdict(list)
    memory = Memory()
    for number in range(1, plan.rounds + 1):
        order = ("small", "large") if number % 2 else ("large", "small")
        for name in order:
            rows = sizes[name]
            whole = name == "large" and number == plan.rounds
            await outbox_rows.empty(environment.database)
            first_id = await outbox_rows.fill(environment.database, [Rows(rows)])
            await outbox_rows.settle_down(environment.database)
            curve = await _emptied(
                environment,
                first_id,
                rows,
                until=None if whole else plan.rows(LOOKED_AT),
                within=LONGEST_DRAIN_SECONDS if whole else LONGEST_SECONDS,
                memory=memory if whole else None,
            )
            going = curve.under_way(plan.rows(LOOKED_AT))
            rate = going.rate(going.samples[0].gone, plan.rows(LOOKED_AT))
            plan.say(f"  backlog of {rows:,} {number}/{plan.rounds}: {rate:,.0f}/s")
            rates[name].append(rate)
    await outbox_rows.empty(environment.database)
    return [
        of_rounds(
            "backlog_1m_vs_100k", ratios(rates["large"], rates["small"]), "×", at_least(0.9)
        ),
        of_rounds(f"backlog of {sizes['large']:,}: rate", rates["large"], "rows/s"),
        of_rounds(f"backlog of {sizes['small']:,}: rate", rates["small"], "rows/s"),
        memory.result(sizes["large"], after=plan.rows(SETTLED_AFTER)),
    ]


class Memory:
    """The resident memory of the relay, by rows published."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []

    def saw(self, gone: int, resident_bytes: int) -> None:
        """Record that *resident_bytes* were in use when *gone* rows were gone."""
        self._seen.append((gone, resident_bytes))

    def result(self, rows: int, *, after: int) -> Result:
        """The growth from row *after* to the end, of *rows* in all."""
        gone = self._seen[-1][0] if self._seen else 0
        settled = [resident for done, resident in self._seen if done >= after]
        growth = (settled[-1] - settled[0]) / _MEGABYTE if settled else None
        note = f"to {settled[-1] / _MEGABYTE:.0f} MB" if settled else "too few rows were gone"
        if settled and gone < rows:
            note += f", cut after {LONGEST_DRAIN_SECONDS:g} s with {gone:,} rows gone"
        return Result("rss_growth_mb", growth, "MB", at_most(20), note)


async def _emptied(
    environment: Environment,
    first: int,
    rows: int,
    *,
    until: int | None = None,
    within: float,
    memory: Memory | None = None,
) -> DrainCurve:
    """Start the relay after the rows exist, so that its first poll finds all of them."""
    await environment.purge()
    began = time.monotonic()
    async with environment.relay() as relay:

        def observe(sample: Sample) -> None:
            if memory is not None:
                memory.saw(sample.gone, relay.resident_bytes)

        return await watch(
            environment,
            relay,
            first=first,
            rows=rows,
            began=began,
            until=until,
            within=within,
            observe=observe,
        )


@asynccontextmanager
async def _old_snapshot(environment: Environment) -> AsyncIterator[None]:
    """A session that has read and keeps its transaction open, without autovacuum."""
    await environment.database.execute("ALTER TABLE outbox SET (autovacuum_enabled = false)")
    other = await asyncpg.connect(environment.database_url.replace("+asyncpg", ""))
    try:
        async with other.transaction(isolation="repeatable_read", readonly=True):
            await other.fetchval("SELECT id FROM outbox LIMIT 1")
            yield
    finally:
        await other.close()
        await environment.database.execute("ALTER TABLE outbox RESET (autovacuum_enabled)")
