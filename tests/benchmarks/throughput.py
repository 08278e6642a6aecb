"""
The relay against handwritten relays, and against its own publisher without a database.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks import outbox_rows
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import Rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program
from tests.benchmarks.progress import watch
from tests.benchmarks.results import Result, at_least, at_most, median, median_ratio

NAIVE_ROWS, GATHER_ROWS, RELAY_ROWS = 3_000, 20_000, 60_000
LONGEST_SECONDS = 30.0
_THOUSAND = 1_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender did in one round: rows per second, CPU seconds per 1,000 rows."""

    rate: float
    cpu: float


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for name in ("naive", "gather", "relay", "publisher"):
            turn = await _turn(environment, plan, name)
            plan.say(f"  {name} {number}/{plan.rounds}: {turn.rate:,.0f}/s, {turn.cpu:.3f} s CPU")
            turns[name].append(turn)
    return figures(turns)


def figures(turns: dict[str, list[Turn]]) -> list[Result]:
    """The figures of the *turns* of each contender."""
    rates = {name: [turn.rate for turn in some] for name, some in turns.items()}
    cpu = {name: [turn.cpu for turn in some] for name, some in turns.items()}
    relay, unit = rates["relay"], "rows/s"
    return [
        Result("relay_vs_naive", median_ratio(relay, rates["naive"]), "×", at_least(20)),
        Result("relay_vs_gather", median_ratio(relay, rates["gather"]), "×", at_least(4)),
        Result(
            "relay_cpu_vs_gather", median_ratio(cpu["relay"], cpu["gather"]), "×", at_most(0.25)
        ),
        Result(
            "relay_vs_publish_limit", median_ratio(relay, rates["publisher"]), "×", at_least(0.7)
        ),
        *(Result(f"{name}: rate", median(some), unit) for name, some in rates.items()),
        *(Result(f"{n}: CPU per 1,000", median(some), "s") for n, some in cpu.items()),
    ]


async def _turn(environment: Environment, plan: Plan, name: str) -> Turn:
    await outbox_rows.empty(environment.database)
    await environment.purge()
    match name:
        case "naive":
            return await _emptied(
                environment, environment.contender("naive"), plan.rows(NAIVE_ROWS)
            )
        case "gather":
            return await _emptied(
                environment, environment.contender("gather"), plan.rows(GATHER_ROWS)
            )
        case "relay":
            return await _emptied(environment, environment.relay(), plan.rows(RELAY_ROWS))
        case _:
            return await _published(environment, plan.rows(RELAY_ROWS))


async def _emptied(environment: Environment, program: Program, rows: int) -> Turn:
    """Let the program idle until the rows appear in one commit, and measure how it drains them."""
    async with program:
        first = await outbox_rows.fill(environment.database, [Rows(rows)])
        began, used = time.monotonic(), program.cpu_seconds
        curve = await watch(
            environment, program, first=first, rows=rows, began=began, within=LONGEST_SECONDS
        )
        used = program.cpu_seconds - used
    return Turn(curve.rate(), used / max(curve.gone, 1) * _THOUSAND)


async def _published(environment: Environment, rows: int) -> Turn:
    async with environment.contender("publisher", str(rows)) as program:
        said = json.loads(last_line(await program.ended(within=2 * LONGEST_SECONDS)))
    return Turn(
        rate=said["rows"] / said["seconds"], cpu=said["cpu_seconds"] / said["rows"] * _THOUSAND
    )


def last_line(output: str) -> str:
    """The last line of a program's output."""
    lines: Sequence[str] = output.splitlines()
    return lines[-1]
