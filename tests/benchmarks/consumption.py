"""
The consumer against two written by hand, each from a queue that was filled before it starts.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from outbox.encryption.encryptor import Encryptor
from outbox.wire.codec import WireMessage
from tests.benchmarks import effects, prepared_messages
from tests.benchmarks.consumers import QUEUE
from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program
from tests.benchmarks.progress import watch_effects
from tests.benchmarks.results import Result, at_least, of_rounds, ratios
from tests.benchmarks.throughput import Turn, WrongCountError
from tests.support.eventually import eventually

HANDWRITTEN, HANDWRITTEN_BATCH = "handwritten", "handwritten_batch"
ON_ASYNCPG = "handwritten_batch, asyncpg"
MESSAGES = {
    HANDWRITTEN: 12_000,
    "default": 24_000,
    HANDWRITTEN_BATCH: 40_000,
    ON_ASYNCPG: 80_000,
    "batch": 40_000,
    "on_batch": 100_000,
}
FIGURES = (
    ("consumer_default_vs_handwritten", "default", HANDWRITTEN, 3),
    ("consumer_batch_vs_handwritten_batch", "batch", HANDWRITTEN_BATCH, 1.3),
    ("consumer_on_batch_vs_handwritten_batch", "on_batch", HANDWRITTEN_BATCH, 4),
)
"""Each with the product's consumer, the one by hand, and the goal."""
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
    cpu = {name: [turn.cpu for turn in some] for name, some in turns.items()}
    return [
        *(
            of_rounds(name, ratios(rates[ours], rates[by_hand]), "×", at_least(bound))
            for name, ours, by_hand, bound in FIGURES
        ),
        *(
            of_rounds(f"consumer {name}: times {ON_ASYNCPG}", ratios(rates[name], other), "×")
            for name in ("batch", "on_batch")
            if (other := rates.get(ON_ASYNCPG)) is not None
        ),
        *(of_rounds(f"consumer {name}: rate", some, "messages/s") for name, some in rates.items()),
        *(of_rounds(f"consumer {name}: CPU per 1,000", some, "s") for name, some in cpu.items()),
    ]


@asynccontextmanager
async def consuming(environment: Environment) -> AsyncIterator[None]:
    """Create the tables of the effects and the product's queue; both are empty at the end."""
    await environment.database.execute(effects.CREATE)
    async with environment.program(
        "consumer", "topology", "tests.benchmarks.consumers:under_load", ready=QUEUE
    ):
        pass
    try:
        yield
    finally:
        await environment.purge(QUEUE)
        await effects.forget(environment.database)


async def _turn(environment: Environment, name: str, messages: int) -> Turn:
    await fill(environment, messages)
    return await drain(environment, name, messages, within=LONGEST_SECONDS)


async def fill(
    environment: Environment, messages: int, *, encryptor: Encryptor | None = None
) -> None:
    """Nothing but *messages* messages is in the queue, and nothing was done yet."""
    # Once the consumer before has gone, the broker has back what that one had not acked.
    await eventually(lambda: environment.is_unread(QUEUE), message="the queue has a consumer")
    await environment.purge(QUEUE)
    await effects.forget(environment.database)
    async with prepared_messages.publisher(environment.broker_url, name="benchmark") as to:
        await prepared_messages.publish_all(to, _batches(messages, encryptor))


async def drain(
    environment: Environment, name: str, messages: int, *, within: float, **variables: str
) -> Turn:
    """
    Start the consumer *name*, and measure how it handles what is in the queue.

    *variables* are added to the environment of the product's consumer.
    """
    used: dict[Sample, float] = {}
    began = time.monotonic()
    async with _program(environment, name, **variables) as program:

        def observe(sample: Sample) -> None:
            used[sample] = program.cpu_seconds

        curve = await watch_effects(
            environment,
            program,
            messages=messages,
            began=began,
            within=within,
            observe=observe,
        )
    if curve.gone > messages:
        raise WrongCountError(f"{messages} messages had {curve.gone} effects")
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


def _program(environment: Environment, name: str, **variables: str) -> Program:
    if name == ON_ASYNCPG:
        module = f"tests.benchmarks.{HANDWRITTEN_BATCH}"
        return environment.program(module, QUEUE, "asyncpg", ready="ready")
    if name in {HANDWRITTEN, HANDWRITTEN_BATCH}:
        return environment.program(f"tests.benchmarks.{name}", QUEUE, ready="ready")
    return environment.consumer(name, **variables)


def _batches(count: int, encryptor: Encryptor | None) -> Iterator[list[WireMessage]]:
    """Batches that go straight to the queue, through the default exchange."""
    for first in range(0, count, prepared_messages.BATCH):
        yield prepared_messages.messages(
            min(prepared_messages.BATCH, count - first),
            exchange="",
            routing_key=QUEUE,
            event_type=effects.EVENT_TYPE,
            encryptor=encryptor,
        )
