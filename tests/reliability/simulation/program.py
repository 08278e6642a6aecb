"""
The command `python -m tests.reliability.simulation`: random schedules, each from its seed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Annotated

import typer

from tests.reliability.checker import Finding
from tests.reliability.simulation.database_files import DatabaseFiles, temporary_database_files
from tests.reliability.simulation.plan import Plan, drawn
from tests.reliability.simulation.schedule import Schedule
from tests.reliability.simulation.simulation import Simulation, simulated

STEPS = 60

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a run has come to.

    Args:
        events: How many were recorded, in whatever transactions.
        faults: How many faults were injected at points.
        seconds: How long it has lasted, in its own time.

    """

    plan: Plan
    trace: list[str]
    findings: list[Finding]
    events: int
    faults: int
    seconds: float

    @property
    def digest(self) -> str:
        """A digest of the trace: equal for two runs that did the same."""
        return sha256("\n".join(self.trace).encode()).hexdigest()[:12]


def run(database_files: DatabaseFiles, *, seed: int, steps: int = STEPS) -> Outcome:
    """Run *steps* steps, then end all faults and wait until every event is drained."""
    jitter = Random(f"schedule {seed}")
    plan = drawn(jitter)
    with simulated(plan, database_files, seed=seed) as simulation:
        findings = _steps(simulation, Schedule(simulation.world, jitter), steps)
        world = simulation.world
        if not findings:
            simulation.run(world.heal_and_drain())
            findings = world.look(drained=True)
        return Outcome(
            plan=plan,
            trace=world.trace,
            findings=findings,
            events=world.events,
            faults=world.points.injected.total(),
            seconds=world.now,
        )


def _steps(simulation: Simulation, schedule: Schedule, steps: int) -> list[Finding]:
    for _ in range(steps):
        simulation.run(schedule.step())
        if findings := simulation.world.look():
            return findings
    return []


@app.command()
def main(
    seeds: Annotated[str, typer.Option(help="One seed, or the first and last: 1-200.")] = "1-20",
    steps: Annotated[int, typer.Option(min=0, help="How much befalls each run.")] = STEPS,
    trace: Annotated[bool, typer.Option(help="Print all that happened.")] = False,
    keep_going: Annotated[bool, typer.Option(help="Do not stop at the first finding.")] = False,
) -> None:
    """
    Run the product under random schedules of faults; exit status 1 if the checker finds an error.
    """
    began = time.perf_counter()
    found = 0
    with temporary_database_files() as here:
        for seed in _each(seeds):
            outcome = run(here, seed=seed, steps=steps)
            found += bool(outcome.findings)
            _tell(seed, outcome, trace=trace)
            if found and not keep_going:
                break
    print(f"{found} with findings, {time.perf_counter() - began:.1f} s")
    raise typer.Exit(code=1 if found else 0)


def _each(seeds: str) -> Iterator[int]:
    first, _, last = seeds.partition("-")
    yield from range(int(first), int(last or first) + 1)


def _tell(seed: int, outcome: Outcome, *, trace: bool) -> None:
    if trace:
        print("\n".join(outcome.trace))
    print(
        f"seed {seed}: {outcome.events} events, {outcome.faults} faults, "
        f"{outcome.seconds:.0f} s simulated, trace {outcome.digest}"
    )
    if outcome.findings:
        print(f"  {outcome.plan}")
    for finding in outcome.findings:
        print(f"  {finding.rule}: {finding.text}")
