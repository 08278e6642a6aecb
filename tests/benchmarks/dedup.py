"""
The dedup store with ten million rows against an empty one, and during a purge.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.benchmarks import dedup_table
from tests.benchmarks.dedup_table import DAYS, EMPTY, FULL, Keys
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import Result, at_least, at_most, median, of_rounds, ratio, ratios
from tests.benchmarks.throughput import last_line

ROWS, SECONDS, PURGE_SECONDS, GRACE_SECONDS = 10_000_000, 12.0, 8.0, 30.0
START_SECONDS = 2.5  # of the writers, which the purge goes on longer
PURGED_DAYS = 10
LOOK_EVERY_SECONDS = 0.02
_MEGABYTE = 1_000_000
_THOUSAND = 1_000

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_LONGEST_WAIT = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0)::float8
  FROM pg_locks WHERE NOT granted
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows per second, and bytes of WAL for each."""

    rate: float
    wal: float


@dataclass(frozen=True, slots=True)
class Purge:
    """
    The result of a purge, and its effect on writers.

    Args:
        longest: Seconds of its longest statement, with the commit.
        waited: The longest that a writer waited for a lock, in seconds.
        quiet: Rows per second of the writers without the purge.
        beside: Rows per second of the writers during the purge.

    """

    rate: float
    longest: float
    deadlocks: int
    waited: float
    quiet: float
    beside: float


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    rows = plan.rows(ROWS)
    found: list[Result] = []
    kinds: tuple[Keys, ...] = ("event_ids", "digests")
    try:
        for keys in kinds:
            plan.say(f"  filling a table of {rows:,} with {keys}")
            await dedup_table.make(environment.database_url, environment.database, rows, keys)
            sizes = await dedup_table.sizes(environment.database)
            found += figures(keys, await _turns(environment, plan, keys))
            found.append(disk(keys, rows, sizes))
            if keys == "event_ids":
                found += purge_figures(await _purge(environment, plan))
    finally:
        await dedup_table.drop(environment.database)
    return found


def figures(keys: Keys, turns: Mapping[str, Sequence[Turn]]) -> list[Result]:
    """Full against empty, for each kind of keys."""
    rates = {schema: [turn.rate for turn in some] for schema, some in turns.items()}
    name = "dedup_10m_vs_empty" if keys == "event_ids" else "dedup_10m_vs_empty_sha256"
    return [
        of_rounds(name, ratios(rates[FULL], rates[EMPTY]), "×", at_least(0.9)),
        *(
            of_rounds(f"dedup, {_named(keys)}: {state}", rates[schema], "rows/s", note=wal)
            for state, schema in (("full", FULL), ("empty", EMPTY))
            for wal in [f"{median(turn.wal for turn in turns[schema]):,.0f} B of WAL a row"]
        ),
    ]


def disk(keys: Keys, rows: int, sizes: Mapping[str, int]) -> Result:
    """The disk space of the full table of *rows* with its indexes; *sizes* in bytes."""
    parts = ", ".join(f"{name} {size / _MEGABYTE:,.0f}" for name, size in sizes.items())
    total = sum(sizes.values()) / _MEGABYTE
    return Result(f"dedup, {_named(keys)}: disk for {rows:,}", total, "MB", note=parts)


def purge_figures(purge: Purge) -> list[Result]:
    """The figures of the purge, and of its effect on writers."""
    return [
        Result("dedup_purge_deadlocks", purge.deadlocks, "", at_most(0)),
        Result("dedup_purge_lock_wait", purge.waited * _THOUSAND, "ms", at_most(_THOUSAND)),
        Result("dedup purge: rate", purge.rate, "rows/s"),
        Result("dedup purge: longest statement", purge.longest * _THOUSAND, "ms"),
        Result("dedup purge: writers vs without", ratio(purge.beside, purge.quiet), "×"),
        Result("dedup purge: writers", purge.beside, "rows/s"),
    ]


def _named(keys: Keys) -> str:
    return {"event_ids": "event ids", "digests": "SHA-256 keys"}[keys]


async def _turns(environment: Environment, plan: Plan, keys: Keys) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        await dedup_table.settle(environment.database)
        found = await _recorded(environment, keys, plan.seconds(SECONDS), EMPTY, FULL)
        plan.say(
            f"  {_named(keys)} {number}/{plan.rounds}: "
            f"empty {found[EMPTY].rate:,.0f}/s, full {found[FULL].rate:,.0f}/s"
        )
        for schema, turn in found.items():
            turns[schema].append(turn)
    return turns


async def _recorded(
    environment: Environment, keys: Keys, seconds: float, *schemas: str
) -> dict[str, Turn]:
    """The rows that the writers recorded in each of *schemas*, for *seconds* in all."""
    load = environment.program(
        "tests.benchmarks.dedup_load", "record", keys, str(seconds), *schemas, ready="ready"
    )
    async with load:
        said = json.loads(last_line(await load.ended(within=seconds + GRACE_SECONDS)))
    return {
        schema: Turn(one["rows"] / one["seconds"], one["wal_bytes"] / max(one["rows"], 1))
        for schema, one in said.items()
    }


async def _purge(environment: Environment, plan: Plan) -> Purge:
    """Measure the writers alone, and then as long during continuous purges."""
    seconds = plan.seconds(PURGE_SECONDS)
    await dedup_table.settle(environment.database)
    quiet = await _recorded(environment, "event_ids", seconds, FULL)
    await dedup_table.settle(environment.database)
    deadlocks = await environment.database.fetchval(_DEADLOCKS)
    purging = environment.program(
        "tests.benchmarks.dedup_load",
        *("purge", FULL, str(DAYS - PURGED_DAYS), str(seconds + START_SECONDS)),
        ready="ready",
    )
    async with _lock_waits(environment) as waits, purging:
        beside = await _recorded(environment, "event_ids", seconds, FULL)
        said = json.loads(last_line(await purging.ended(within=seconds + GRACE_SECONDS)))
    found = Purge(
        rate=said["rows"] / said["seconds"],
        longest=said["longest_seconds"],
        deadlocks=await environment.database.fetchval(_DEADLOCKS) - deadlocks,
        waited=max(waits),
        quiet=quiet[FULL].rate,
        beside=beside[FULL].rate,
    )
    plan.say(f"  purge: {found.rate:,.0f}/s, the longest took {found.longest * _THOUSAND:.0f} ms")
    return found


@asynccontextmanager
async def _lock_waits(environment: Environment) -> AsyncIterator[list[float]]:
    """The longest current wait for a lock, in seconds, at each poll."""
    waits = [0.0]

    async def look() -> None:
        while True:
            waits.append(await environment.observer.fetchval(_LONGEST_WAIT))
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    looking = asyncio.ensure_future(look())
    try:
        yield waits
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
