"""
From commit to confirm, against a relay by hand, and beside the least that this can take.
"""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import outbox_rows
from tests.benchmarks.contenders import CREATE_OWN_TABLE
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.producers import PER_SECOND
from tests.benchmarks.results import Result, at_most, of_rounds, percentile, ratios
from tests.support.eventually import eventually

SECONDS, WARM_UP_SECONDS, GRACE_SECONDS = 15.0, 2.0, 10.0
FLOOR, BY_HAND, RELAY = "floor", "relay by hand", "relay"
CONTENDERS = (FLOOR, BY_HAND, RELAY)
_MILLISECONDS = 1_000


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds from the commit to the end: the median and the 99th percentile."""

    p50: float
    p99: float


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    await outbox_rows.empty(environment.database)
    await environment.database.execute(CREATE_OWN_TABLE)
    delays: dict[str, list[Delays]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for name in CONTENDERS:
            found = await _delays(environment, plan, name)
            plan.say(
                f"  {name} {number}/{plan.rounds}: {found.p50:.1f} ms, p99 {found.p99:.1f} ms"
            )
            delays[name].append(found)
    return figures(delays)


def figures(delays: Mapping[str, Sequence[Delays]]) -> list[Result]:
    """Both percentiles of the relay over those of the one by hand of the same round."""
    p50 = {name: [each.p50 for each in some] for name, some in delays.items()}
    p99 = {name: [each.p99 for each in some] for name, some in delays.items()}
    return [
        of_rounds(
            "latency_vs_handwritten, p50", ratios(p50[RELAY], p50[BY_HAND]), "×", at_most(1.1)
        ),
        of_rounds(
            "latency_vs_handwritten, p99", ratios(p99[RELAY], p99[BY_HAND]), "×", at_most(1.2)
        ),
        *(
            of_rounds(f"{name}: commit to confirm, {which}", values[name], "ms")
            for name in delays
            for which, values in (("p50", p50), ("p99", p99))
        ),
    ]


async def _delays(environment: Environment, plan: Plan, name: str) -> Delays:
    run = secrets.token_hex(4)
    committed, confirmed = (
        environment.directory / f"{run}.{what}" for what in ("commits", "confirms")
    )
    warm_up = plan.seconds(WARM_UP_SECONDS)
    seconds = str(plan.seconds(SECONDS) + warm_up)
    if name == FLOOR:
        program = environment.program("tests.benchmarks.floor", str(confirmed), ready="ready")
        source = ["notifications", str(committed), seconds]
    elif name == BY_HAND:
        program = environment.contender("notified", str(confirmed))
        source = ["rows", str(committed), seconds, str(PER_SECOND)]
    else:
        program = environment.program(
            "tests.benchmarks.recording_relay", str(confirmed), ready="relay_started"
        )
        source = ["events", str(committed), seconds, outbox_rows.EVENT_TYPE, str(PER_SECOND)]
    async with (
        program,
        environment.program("tests.benchmarks.producers", *source, ready="ready") as producer,
    ):
        await producer.ended(within=float(seconds) + GRACE_SECONDS)
        commits, confirms = await arrived(committed, confirmed)
    return evaluate(commits, confirms, skip=int(warm_up * PER_SECOND))


async def arrived(committed: Path, ended: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The times in both files, once the second has every id of the first."""
    commits = _times(committed)
    await eventually(
        lambda: commits.keys() <= _times(ended).keys(),
        within=GRACE_SECONDS,
        message="not everything has arrived",
    )
    return commits, _times(ended)


def evaluate(commits: Mapping[str, float], ends: Mapping[str, float], *, skip: int) -> Delays:
    """The delays of all events but the first *skip*; raises an error if one is missing."""
    delays = [
        (ends[identity] - at) * _MILLISECONDS for identity, at in list(commits.items())[skip:]
    ]
    return Delays(percentile(delays, 50), percentile(delays, 99))


def _times(file: Path) -> dict[str, float]:
    """The time of each id, from complete lines only."""
    if not file.exists():
        return {}
    lines = file.read_text().rpartition("\n")[0].splitlines()
    return {identity: float(at) for identity, at in (line.split() for line in lines)}
