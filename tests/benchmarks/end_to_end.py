"""
From the producer's commit to the consumer's, against the minimal path written by hand.
"""

import secrets
from collections.abc import Sequence

from tests.benchmarks import outbox_rows
from tests.benchmarks.consumers import COMMITS, QUEUE
from tests.benchmarks.consumption import consuming
from tests.benchmarks.effects import EVENT_TYPE
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
from tests.benchmarks.results import Result, at_most, median, ratio


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    await outbox_rows.empty(environment.database)
    floors: list[Delays] = []
    products: list[Delays] = []
    async with consuming(environment), environment.unbound():
        for number in range(1, plan.rounds + 1):
            for name, into in (("floor", floors), ("product", products)):
                delays = await _delays(environment, plan, name)
                plan.say(
                    f"  {name} {number}/{plan.rounds}: {delays.p50:.1f} ms, "
                    f"p99 {delays.p99:.1f} ms"
                )
                into.append(delays)
    return figures(floors, products)


def figures(floors: Sequence[Delays], products: Sequence[Delays]) -> list[Result]:
    """The median of the product over that of the floor, round by round."""
    pairs = zip(products, floors, strict=True)
    p50 = median(ratio(product.p50, floor.p50) for product, floor in pairs)
    return [
        Result("end_to_end_p50_vs_floor", p50, "×", at_most(2)),
        *(
            Result(f"{name}: commit to commit, {which}", median(values), "ms")
            for name, some in (("product", products), ("floor by hand", floors))
            for which, values in (
                ("p50", [delays.p50 for delays in some]),
                ("p99", [delays.p99 for delays in some]),
            )
        ),
    ]


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
        source = ["events", str(committed), str(seconds), EVENT_TYPE]
        last = environment.consumer("recorded", **{COMMITS: str(applied)})
        first = environment.relay()
    producing = environment.program("tests.benchmarks.producers", *source, ready="ready")
    async with last, first, producing as producer:
        await producer.ended(within=seconds + GRACE_SECONDS)
        commits, effects = await arrived(committed, applied)
    return evaluate(commits, effects, skip=int(warm_up * PER_SECOND))
