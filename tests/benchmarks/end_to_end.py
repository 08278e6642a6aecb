"""
From the producer's commit to the consumer's, against the minimal path written by hand.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.benchmarks import outbox_rows
from tests.benchmarks.consumers import COMMITS, QUEUE
from tests.benchmarks.consumption import consuming
from tests.benchmarks.effects import EVENT_TYPE, URGENT_TYPE
from tests.benchmarks.environment import Environment
from tests.benchmarks.latency import (
    GRACE_SECONDS,
    SECONDS,
    WARM_UP_SECONDS,
    Delays,
    arrived,
    evaluate,
)
from tests.benchmarks.plan import Plan
from tests.benchmarks.producers import PER_SECOND
from tests.benchmarks.programs import Program, together
from tests.benchmarks.results import Result, at_most, of_rounds, ratios

URGENT_PER_SECOND, FLOW = 20, 200
URGENT_SECONDS = 30.0


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""

    def turn(name: str) -> Awaitable[Delays]:
        return _delays(environment, plan, name)

    floors, products = await _rounds(environment, plan, ("floor", "product"), turn)
    return figures(floors, products)


def figures(floors: Sequence[Delays], products: Sequence[Delays]) -> list[Result]:
    """The median of the product over that of the floor, round by round."""
    p50 = ratios([each.p50 for each in products], [each.p50 for each in floors])
    return [
        of_rounds("end_to_end_p50_vs_floor", p50, "×", at_most(1.5)),
        *_percentiles("product", products),
        *_percentiles("floor by hand", floors),
    ]


async def under_load(environment: Environment, plan: Plan) -> list[Result]:
    """Urgent events alone, and the same while others flow."""
    names = ("urgent, alone", f"urgent, beside {FLOW}/s")

    def turn(name: str) -> Awaitable[Delays]:
        return _urgent(environment, plan, flows=name != names[0])

    alone, beside = await _rounds(environment, plan, names, turn)
    return figures_under_load(alone, beside)


def figures_under_load(alone: Sequence[Delays], beside: Sequence[Delays]) -> list[Result]:
    """The 99th percentile beside the flow over that without, round by round."""
    p99 = ratios([each.p99 for each in beside], [each.p99 for each in alone])
    return [
        of_rounds("latency_under_load", p99, "×", at_most(3)),
        *_percentiles("urgent events alone", alone),
        *_percentiles("urgent events under load", beside),
    ]


async def _rounds(
    environment: Environment,
    plan: Plan,
    names: Sequence[str],
    turn: Callable[[str], Awaitable[Delays]],
) -> list[list[Delays]]:
    """The delays of each of *names*, which take turns."""
    await outbox_rows.empty(environment.database)
    found: list[list[Delays]] = [[] for _ in names]
    async with consuming(environment), environment.unbound():
        for number in range(1, plan.rounds + 1):
            for name, into in zip(names, found, strict=True):
                delays = await turn(name)
                plan.say(
                    f"  {name} {number}/{plan.rounds}: {delays.p50:.1f} ms, "
                    f"p99 {delays.p99:.1f} ms"
                )
                into.append(delays)
    return found


def _percentiles(name: str, some: Sequence[Delays]) -> list[Result]:
    return [
        of_rounds(f"{name}: commit to commit, p50", [each.p50 for each in some], "ms"),
        of_rounds(f"{name}: commit to commit, p99", [each.p99 for each in some], "ms"),
    ]


async def _urgent(environment: Environment, plan: Plan, *, flows: bool) -> Delays:
    run = secrets.token_hex(4)
    committed, applied, flowed = (
        environment.directory / f"{run}.{what}" for what in ("commits", "effects", "flow")
    )
    warm_up = plan.seconds(WARM_UP_SECONDS)
    seconds = plan.seconds(URGENT_SECONDS) + warm_up

    def producer(file: Path, event_type: str, per_second: int, lasting: float) -> Program:
        source = ["events", str(file), str(lasting), event_type, str(per_second)]
        return environment.program("tests.benchmarks.producers", *source, ready="ready")

    # The flow begins before the urgent events, and lasts longer.
    flow = [producer(flowed, EVENT_TYPE, FLOW, seconds + warm_up)] if flows else []
    consumer = environment.consumer("under_load", **{COMMITS: str(applied)})
    async with (
        together([consumer, environment.relay(), *flow]),
        producer(committed, URGENT_TYPE, URGENT_PER_SECOND, seconds) as urgent,
    ):
        await urgent.ended(within=seconds + GRACE_SECONDS)
        commits, effects = await arrived(committed, applied)
    return evaluate(commits, effects, skip=int(warm_up * URGENT_PER_SECOND))


async def _delays(environment: Environment, plan: Plan, name: str) -> Delays:
    run = secrets.token_hex(4)
    committed, applied = (
        environment.directory / f"{run}.{what}" for what in ("commits", "effects")
    )
    warm_up = plan.seconds(WARM_UP_SECONDS)
    seconds = plan.seconds(SECONDS) + warm_up
    if name == "floor":
        source = ["notifications", str(committed), str(seconds)]
        last = environment.program(
            "tests.benchmarks.bare_path", "apply", QUEUE, str(applied), ready="ready"
        )
        first = environment.program("tests.benchmarks.bare_path", "publish", QUEUE, ready="ready")
    else:
        source = ["events", str(committed), str(seconds), EVENT_TYPE, str(PER_SECOND)]
        last = environment.consumer("recorded", **{COMMITS: str(applied)})
        first = environment.relay()
    producing = environment.program("tests.benchmarks.producers", *source, ready="ready")
    async with last, first, producing as producer:
        await producer.ended(within=seconds + GRACE_SECONDS)
        commits, effects = await arrived(committed, applied)
    return evaluate(commits, effects, skip=int(warm_up * PER_SECOND))
