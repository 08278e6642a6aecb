"""
The consumer against one written by hand, each from a queue that was filled before it starts.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from outbox.wire.codec import WireMessage
from tests.benchmarks import effects, prepared
from tests.benchmarks.consumers import QUEUE
from tests.benchmarks.course import Course, Sample
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program
from tests.benchmarks.results import Result, at_least, median, median_ratio
from tests.benchmarks.servers import Site
from tests.benchmarks.throughput import Turn
from tests.benchmarks.watching import watch_effects

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


async def measure(site: Site, plan: Plan) -> list[Result]:
    """The figures of this group."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    async with consuming(site):
        for number in range(1, plan.rounds + 1):
            for name, full in MESSAGES.items():
                turn = await _turn(site, name, plan.rows(full))
                plan.say(
                    f"  {name} {number}/{plan.rounds}: {turn.rate:,.0f}/s, {turn.cpu:.3f} s CPU"
                )
                turns[name].append(turn)
    return figures(turns)


def figures(turns: Mapping[str, Sequence[Turn]]) -> list[Result]:
    """What the *turns* of each contender come to."""
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
async def consuming(site: Site) -> AsyncIterator[None]:
    """The tables of the effects, and the product's queue; nothing is left in it at the end."""
    await site.database.execute(effects.CREATE)
    async with site.program(
        "consumer", "topology", "tests.benchmarks.consumers:single", ready=QUEUE
    ):
        pass
    try:
        yield
    finally:
        await site.purge(QUEUE)
        await effects.forget(site.database)


async def _turn(site: Site, name: str, messages: int) -> Turn:
    await site.purge(QUEUE)
    await effects.forget(site.database)
    async with prepared.publisher(site.broker_url, name="benchmark") as to:
        await prepared.publish_all(to, _batches(messages))
    used: dict[Sample, float] = {}
    began = time.monotonic()
    async with _program(site, name) as program:

        def observe(sample: Sample) -> None:
            used[sample] = program.cpu_seconds

        course = await watch_effects(
            site,
            program,
            messages=messages,
            began=began,
            within=LONGEST_SECONDS,
            observe=observe,
        )
    return evaluate(course, used, messages)


def evaluate(course: Course, used: Mapping[Sample, float], messages: int) -> Turn:
    """
    Rate and CPU from when a fiftieth of *messages* was done; *used* is told for each sample.

    Of so few messages that one look found all of them done, the start is part of it.
    """
    going = course.under_way(messages)
    if going.samples[0] is going.samples[-1]:
        going = course
    first, last = going.samples[0], going.samples[-1]
    cpu = (used[last] - used.get(first, 0.0)) / max(last.gone - first.gone, 1) * _THOUSAND
    return Turn(going.rate(first.gone), cpu)


def _program(site: Site, name: str) -> Program:
    if name.startswith("handwritten"):
        loop = ["uvloop"] if name == ON_UVLOOP else []
        return site.program("tests.benchmarks.handwritten", QUEUE, *loop, ready="ready")
    return site.consumer(name)


def _batches(count: int) -> Iterator[list[WireMessage]]:
    """Straight into the queue, through the exchange that has no name."""
    for first in range(0, count, prepared.BATCH):
        yield prepared.messages(
            min(prepared.BATCH, count - first),
            exchange="",
            routing_key=QUEUE,
            event_type=effects.EVENT_TYPE,
        )
