"""
Looking at how far a program is: cheaply, and in the same way for all contenders.

Rows without a key are claimed in the order of their ids, and those were given out without gaps.
So the lowest id that is left says how many rows are gone: published, confirmed, removed and
committed. Each look begins at what the last one found, and never walks over the dead rows before.

Effects of a consumer get their ids in order, too, so the highest id says how many there are; what
is in transactions that are not yet committed is counted with those. That all of them are there in
the end is counted.

Nothing is asked of the process that is measured.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.environment import Environment
from tests.benchmarks.programs import Program

LOOK_EVERY_SECONDS = 0.02

FIRST_LEFT = """
SELECT id FROM outbox
 WHERE id >= $1 AND ordering_key IS NULL AND not_before IS NULL
 ORDER BY id LIMIT 1
"""

_LAST_EFFECT = "SELECT max(id) FROM benchmark_effects"
_EFFECTS = "SELECT count(*) FROM benchmark_effects"


def _nothing(_sample: Sample) -> None: ...


async def watch(
    environment: Environment,
    program: Program,
    *,
    first: int,
    rows: int,
    began: float,
    until: int | None = None,
    within: float,
    observe: Callable[[Sample], None] = _nothing,
    lowest_left: str = FIRST_LEFT,
) -> DrainCurve:
    """
    How *rows* rows of the outbox from id *first* on went, until *until* of them are gone, or all.

    *lowest_left* is the statement for another table than the product's.

    After *within* seconds it ends with what there is, so that a slow contender costs no more time
    than a fast one. *observe* gets each sample.
    """
    lowest: int | None = first

    async def gone() -> int:
        nonlocal lowest
        lowest = await environment.observer.fetchval(lowest_left, lowest)
        return rows if lowest is None else lowest - first

    return await _curve(
        program, gone, began=began, until=until or rows, within=within, observe=observe
    )


async def watch_left(
    environment: Environment,
    program: Program,
    left: str,
    *,
    rows: int,
    began: float,
    within: float,
) -> DrainCurve:
    """The same by counting what is *left*, for a table whose ids say nothing."""

    async def gone() -> int:
        return rows - int(await environment.observer.fetchval(left))

    return await _curve(program, gone, began=began, until=rows, within=within, observe=_nothing)


async def watch_effects(
    environment: Environment,
    program: Program,
    *,
    messages: int,
    began: float,
    within: float,
    observe: Callable[[Sample], None] = _nothing,
) -> DrainCurve:
    """How the effects of *messages* messages came; ends as `watch` does."""

    async def done() -> int:
        highest = await environment.observer.fetchval(_LAST_EFFECT) or 0
        if highest < messages:
            return int(highest)
        return int(await environment.observer.fetchval(_EFFECTS))

    return await _curve(program, done, began=began, until=messages, within=within, observe=observe)


async def _curve(
    program: Program,
    gone: Callable[[], Awaitable[int]],
    *,
    began: float,
    until: int,
    within: float,
    observe: Callable[[Sample], None],
) -> DrainCurve:
    samples = [Sample(began, 0)]
    while samples[-1].gone < until and samples[-1].at - began < within:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        program.check()
        seen = await gone()
        samples.append(Sample(time.monotonic(), seen))
        observe(samples[-1])
    return DrainCurve(samples)
