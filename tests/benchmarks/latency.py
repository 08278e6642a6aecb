"""
From commit to confirm, against the floor: the least that this can take on the same machine.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import outbox_rows
from tests.benchmarks.environment import Environment
from tests.benchmarks.plan import Plan
from tests.benchmarks.producers import PER_SECOND
from tests.benchmarks.results import Result, at_most, median, percentile, ratio
from tests.support.eventually import eventually

SECONDS, WARM_UP_SECONDS, GRACE_SECONDS = 10.0, 2.0, 10.0
_MILLISECONDS = 1_000


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds from the commit to the end: the median and the 99th percentile."""

    p50: float
    p99: float


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    await outbox_rows.empty(environment.database)
    floors: list[Delays] = []
    relays: list[Delays] = []
    for number in range(1, plan.rounds + 1):
        for name, into in (("floor", floors), ("relay", relays)):
            delays = await _delays(environment, plan, name)
            plan.say(
                f"  {name} {number}/{plan.rounds}: {delays.p50:.1f} ms, p99 {delays.p99:.1f} ms"
            )
            into.append(delays)
    return figures(floors, relays)


def figures(floors: Sequence[Delays], relays: Sequence[Delays]) -> list[Result]:
    """Both percentiles of the relay over the median of the floor of the same round."""
    pairs = list(zip(relays, floors, strict=True))
    p50 = median(ratio(relay.p50, floor.p50) for relay, floor in pairs)
    p99 = median(ratio(relay.p99, floor.p50) for relay, floor in pairs)
    return [
        Result("latency_p50_vs_floor", p50, "×", at_most(2)),
        Result("latency_p99_vs_floor", p99, "×", at_most(6)),
        *(
            Result(f"{name}: commit to confirm, {which}", median(values), "ms")
            for name, some in (("relay", relays), ("floor", floors))
            for which, values in (
                ("p50", [delays.p50 for delays in some]),
                ("p99", [delays.p99 for delays in some]),
            )
        ),
    ]


async def _delays(environment: Environment, plan: Plan, name: str) -> Delays:
    run = secrets.token_hex(4)
    committed, confirmed = (
        environment.directory / f"{run}.{what}" for what in ("commits", "confirms")
    )
    warm_up = plan.seconds(WARM_UP_SECONDS)
    seconds = str(plan.seconds(SECONDS) + warm_up)
    if name == "floor":
        program = environment.program("tests.benchmarks.floor", str(confirmed), ready="ready")
        source = ["notifications", str(committed), seconds]
    else:
        program = environment.program(
            "tests.benchmarks.recording_relay", str(confirmed), ready="relay_started"
        )
        source = ["events", str(committed), seconds, outbox_rows.EVENT_TYPE]
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
