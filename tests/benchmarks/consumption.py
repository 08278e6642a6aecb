"""
The consumer against a handwritten one, each from a queue that was filled before it starts.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from outbox.wire.codec import WireMessage
from tests.benchmarks import effects, prepared_messages
from tests.benchmarks.consumers import QUEUE
from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program
from tests.benchmarks.progress import watch_effects
from tests.benchmarks.results import Result, at_least, median, median_ratio
from tests.benchmarks.throughput import Turn

ON_UVLOOP = "handwritten, uvloop"
MESSAGES = {
    "handwritten": 8_000,
    ON_UVLOOP: 8_000,
    "single": 12_000,
    "batch": 40_000,
    "on_batch": 60_000,
}
GOALS = {"single": 1.2, "batch": 4, "on_batch": 12}
LONGEST_SECONDS = 30.0
_THOUSAND = 1_000


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    async with consuming(environment):
        for number in range(1, plan.rounds + 1):
            for name, full in MESSAGES.items():
                turn = await _turn(environment, name, plan.rows(full))
                plan.say(
                    f"  {name} {number}/{plan.rounds}: {turn.rate:,.0f}/s, {turn.cpu:.3f} s CPU"
                )
                turns[name].append(turn)
    return figures(turns)


def figures(turns: Mapping[str, Sequence[Turn]]) -> list[Result]:
    """The figures of the *turns* of each contender."""
    rates = {name: [turn.rate for turn in some] for name, some in turns.items()}
    return [
        *(
            Result(
                f"consumer_{name}_vs_handwritten",
                median_ratio(rates[name], rates["handwritten"]),
                "×",
                at_least(bound),
            )
            for name, bound in GOALS.items()
        ),
        *(
            Result(f"consumer {name}: times {ON_UVLOOP}", median_ratio(rates[name], other), "×")
            for name in GOALS
            if (other := rates.get(ON_UVLOOP)) is not None
        ),
        *(Result(f"consumer {n}: rate", median(some), "messages/s") for n, some in rates.items()),
        *(
            Result(f"consumer {n}: CPU per 1,000", median(turn.cpu for turn in some), "s")
            for n, some in turns.items()
        ),
    ]


@asynccontextmanager
async def consuming(environment: Environment) -> AsyncIterator[None]:
    """Create the tables of the effects and the product's queue; both are empty at the end."""
    await environment.database.execute(effects.CREATE)
    async with environment.program(
        "consumer", "topology", "tests.benchmarks.consumers:single", ready=QUEUE
    ):
        pass
    try:
        yield
    finally:
        await environment.purge(QUEUE)
        await effects.forget(environment.database)


async def _turn(environment: Environment, name: str, messages: int) -> Turn:
    await environment.purge(QUEUE)
    await effects.forget(environment.database)
    async with prepared_messages.publisher(environment.broker_url, name="benchmark") as to:
        await prepared_messages.publish_all(to, _batches(messages))
    used: dict[Sample, float] = {}
    began = time.monotonic()
    async with _program(environment, name) as program:

        def observe(sample: Sample) -> None:
            used[sample] = program.cpu_seconds

        curve = await watch_effects(
            environment,
            program,
            messages=messages,
            began=began,
            within=LONGEST_SECONDS,
            observe=observe,
        )
    return evaluate(curve, used, messages)


def evaluate(curve: DrainCurve, used: Mapping[Sample, float], messages: int) -> Turn:
    """
    Rate and CPU from when a fiftieth of *messages* was done; *used* is called for each sample.

    If the first sample finds all of them done, the start of the program is included.
    """
    going = curve.under_way(messages)
    if going.samples[0] is going.samples[-1]:
        going = curve
    first, last = going.samples[0], going.samples[-1]
    cpu = (used[last] - used.get(first, 0.0)) / max(last.gone - first.gone, 1) * _THOUSAND
    return Turn(going.rate(first.gone), cpu)


def _program(environment: Environment, name: str) -> Program:
    if name.startswith("handwritten"):
        loop = ["uvloop"] if name == ON_UVLOOP else []
        return environment.program("tests.benchmarks.handwritten", QUEUE, *loop, ready="ready")
    return environment.consumer(name)


def _batches(count: int) -> Iterator[list[WireMessage]]:
    """Batches that go straight to the queue, through the default exchange."""
    for first in range(0, count, prepared_messages.BATCH):
        yield prepared_messages.messages(
            min(prepared_messages.BATCH, count - first),
            exchange="",
            routing_key=QUEUE,
            event_type=effects.EVENT_TYPE,
        )
