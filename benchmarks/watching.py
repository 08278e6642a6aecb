"""
Looking at the table while it is emptied: cheaply, and in the same way for all contenders.

Rows without a key are claimed in the order of their ids, and those were given out without gaps.
So the lowest id that is left says how many rows are gone: published, confirmed, removed and
committed. Each look begins at what the last one found, and never walks over the dead rows before.
Nothing is asked of the process that is measured.
"""

import asyncio
import time
from collections.abc import Callable

from benchmarks.course import Course, Sample
from benchmarks.programs import Program
from benchmarks.servers import Site

LOOK_EVERY_SECONDS = 0.02

_FIRST_LEFT = """
SELECT id FROM outbox
 WHERE id >= $1 AND ordering_key IS NULL AND not_before IS NULL
 ORDER BY id LIMIT 1
"""


def _nothing(_sample: Sample) -> None: ...


async def watch(
    site: Site,
    program: Program,
    *,
    first: int,
    rows: int,
    began: float,
    until: int | None = None,
    within: float,
    observe: Callable[[Sample], None] = _nothing,
) -> Course:
    """
    How *rows* rows from id *first* on went, until *until* of them are gone, or all.

    After *within* seconds it ends with what there is, so that a slow contender costs no more time
    than a fast one. *observe* is told each sample.
    """
    samples = [Sample(began, 0)]
    lowest: int | None = first
    while samples[-1].gone < (until or rows) and samples[-1].at - began < within:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        program.check()
        lowest = await site.eye.fetchval(_FIRST_LEFT, lowest)
        samples.append(Sample(time.monotonic(), rows if lowest is None else lowest - first))
        observe(samples[-1])
    return Course(samples)
