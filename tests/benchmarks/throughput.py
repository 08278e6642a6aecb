"""
The relay against the relays of others, one by hand, and the same job in C.
"""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import outbox_rows
from tests.benchmarks.drain_curve import DrainCurve
from tests.benchmarks.environment import Environment
from tests.benchmarks.outbox_rows import BODY_BYTES, Rows
from tests.benchmarks.peer_programs import FULL_JOB, PEERS, Peer
from tests.benchmarks.plan import Plan
from tests.benchmarks.programs import Program, together
from tests.benchmarks.progress import watch, watch_left
from tests.benchmarks.results import (
    Goal,
    Result,
    at_least,
    at_most,
    of_rounds,
    ratios,
)
from tests.support.eventually import eventually

RELAY, TWO, GATHER, BUFFERED = "relay", "two relays", "gather", "gather, larger writes"
PUBLISHER, C_PUBLISHER = "own publisher", "C, publish only"
ROWS = {
    RELAY: 120_000,
    TWO: 120_000,
    GATHER: 40_000,
    BUFFERED: 40_000,
    "txoutbox": 30_000,
    "faststream-outbox": 15_000,
    "omni-box": 10_000,
    FULL_JOB: 120_000,
    PUBLISHER: 120_000,
    C_PUBLISHER: 120_000,
}
LARGER = {"10kb": (10 * BODY_BYTES, 40_000, 500), "100kb": (100 * BODY_BYTES, 6_000, 100)}
"""By the name of the figure: the size of a body, how many rows, and the batch of the job in C."""
LONGEST_SECONDS, COUNT_SECONDS = 40.0, 20.0
_THOUSAND = 1_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender did in one round: rows per second, CPU seconds per 1,000 rows."""

    rate: float
    cpu: float


class WrongCountError(Exception):
    """A contender did not publish each row once."""


async def measure(environment: Environment, plan: Plan) -> list[Result]:
    """The figures of this group."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    missing = environment.installed.missing
    absent = {*missing, *([C_PUBLISHER] if FULL_JOB in missing else [])}
    for number in range(1, plan.rounds + 1):
        for name, full in ROWS.items():
            if name in absent:
                continue
            turn = await _turn(environment, name, plan.rows(full))
            plan.say(f"  {name} {number}/{plan.rounds}: {turn.rate:,.0f}/s, {turn.cpu:.3f} s CPU")
            turns[name].append(turn)
    return figures(turns, missing)


async def larger(environment: Environment, plan: Plan) -> list[Result]:
    """The relay against the job in C with larger bodies."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    missing = environment.installed.missing
    for number in range(1, plan.rounds + 1):
        for figure, (size, rows, batch) in LARGER.items():
            count = plan.rows(rows)
            for name in (RELAY, *(() if FULL_JOB in missing else (FULL_JOB,))):
                await _emptied_before(environment)
                one = (
                    environment.relay()
                    if name == RELAY
                    else environment.full_job("relay", BATCH=str(batch))
                )
                turn = await _drained(environment, [one], Rows(count, body_bytes=size))
                plan.say(
                    f"  {figure}, {name} {number}/{plan.rounds}: "
                    f"{turn.rate:,.0f}/s, {turn.cpu:.3f} s CPU"
                )
                turns[f"{figure} {name}"].append(turn)
    return [found for figure in LARGER for found in figures_of_size(figure, turns, missing)]


def figures_of_size(
    figure: str, turns: Mapping[str, Sequence[Turn]], missing: Mapping[str, str]
) -> list[Result]:
    """The figures for bodies of one size; all have the same, so rows are as good as bytes."""
    goal = at_least(0.8 if figure == "10kb" else 0.9)
    rates = {name: [turn.rate for turn in some] for name, some in turns.items()}
    relay, full_job = rates[f"{figure} {RELAY}"], rates.get(f"{figure} {FULL_JOB}")
    megabytes = LARGER[figure][0] / 1_000_000
    return [
        _against(f"relay_{figure}", relay, full_job, goal, missing.get(FULL_JOB, "")),
        of_rounds(f"{RELAY}, {figure}: rate", [rate * megabytes for rate in relay], "MB/s"),
        *(
            of_rounds(f"{FULL_JOB}, {figure}: rate", [rate * megabytes for rate in some], "MB/s")
            for some in ([full_job] if full_job else [])
        ),
    ]


def figures(
    turns: Mapping[str, Sequence[Turn]], missing: Mapping[str, str] | None = None
) -> list[Result]:
    """The figures of the *turns* of each contender; *missing* says why some have none."""
    reasons = missing or {}
    rates = {name: [turn.rate for turn in some] for name, some in turns.items()}
    cpu = {name: [turn.cpu for turn in some] for name, some in turns.items()}
    relay = rates[RELAY]
    peers = {peer.name: rates[peer.name] for peer in PEERS if peer.name in rates}
    best = [max(of_round) for of_round in zip(*peers.values(), strict=True)]
    without = "; ".join(
        f"without {peer.name}: {reasons[peer.name]}" for peer in PEERS if peer.name in reasons
    )
    return [
        _against("relay_vs_best_peer", relay, best, at_least(5), without),
        _against("relay_vs_gather", relay, rates[GATHER], at_least(4)),
        _against(
            "relay_vs_c", relay, rates.get(FULL_JOB), at_least(0.75), reasons.get(FULL_JOB, "")
        ),
        of_rounds("relay_cpu", cpu[RELAY], "s per 1,000", at_most(0.020)),
        _against("relay_two_vs_one", rates[TWO], relay, at_least(1.2)),
        _against("relay_vs_publish_limit", relay, rates[PUBLISHER], None),
        *(of_rounds(f"{name}: rate", some, "rows/s") for name, some in rates.items()),
        *(of_rounds(f"{name}: CPU per 1,000", some, "s") for name, some in cpu.items()),
    ]


def _against(
    name: str,
    over: Sequence[float],
    under: Sequence[float] | None,
    goal: Goal | None,
    reason: str = "",
) -> Result:
    """The ratio, or the *reason* why there is none; with both, the reason is a note."""
    if not under:
        return Result(name, None, "×", goal, reason)
    return of_rounds(name, ratios(over, under), "×", goal, reason)


async def _turn(environment: Environment, name: str, rows: int) -> Turn:
    await _emptied_before(environment)
    if name == PUBLISHER:
        return await _published(environment.contender("publisher", str(rows)))
    if name == C_PUBLISHER:
        return await _published(environment.full_job("publish", str(rows)))
    if (peer := {each.name: each for each in PEERS}.get(name)) is not None:
        return await _drained_peer(environment, peer, rows)
    return await _drained(environment, _relays(environment, name), Rows(rows))


def _relays(environment: Environment, name: str) -> list[Program]:
    match name:
        case "gather":
            return [environment.contender("gather")]
        case "gather, larger writes":
            return [environment.contender("gather", "larger-writes")]
        case "C":
            return [environment.full_job("relay")]
        case "two relays":
            return [environment.relay(), environment.relay()]
        case _:
            return [environment.relay()]


async def _emptied_before(environment: Environment) -> None:
    """The table and the queue of the product are empty, and no checkpoint is due."""
    await outbox_rows.empty(environment.database)
    await outbox_rows.settle_down(environment.database)
    await environment.purge()
    environment.purged.forget()


async def _drained(environment: Environment, programs: Sequence[Program], rows: Rows) -> Turn:
    """Let the programs idle until the rows appear in one commit; measure how they drain them."""
    async with together(programs):
        first = await outbox_rows.fill(environment.database, [rows])
        began, used = time.monotonic(), [program.cpu_seconds for program in programs]
        curve = await watch(
            environment,
            programs[0],
            first=first,
            rows=rows.count,
            began=began,
            within=LONGEST_SECONDS,
        )
        turn = _rated(curve, programs, used)
    await _check_count(environment, curve, rows.count)
    return turn


async def _drained_peer(environment: Environment, peer: Peer, rows: int) -> Turn:
    """The same with a relay of others, which has its own table."""
    database = environment.database
    async with environment.peer(peer, "prepare") as preparing:
        await preparing.ended(within=LONGEST_SECONDS)
    await database.execute(f"TRUNCATE {peer.table}")
    async with environment.peer(peer, "run") as program:
        async with database.transaction():
            await database.execute(peer.fill, rows)
            # In their favour: their plans depend on what Postgres knows of the new rows.
            await database.execute(f"ANALYZE {peer.table}")
        began, used = time.monotonic(), [program.cpu_seconds]
        if peer.lowest is None:
            curve = await watch_left(
                environment, program, peer.left, rows=rows, began=began, within=LONGEST_SECONDS
            )
        else:
            first = await database.fetchval(f"SELECT min(id) FROM {peer.table}")
            curve = await watch(
                environment,
                program,
                first=first,
                rows=rows,
                began=began,
                within=LONGEST_SECONDS,
                lowest_left=peer.lowest,
            )
        turn = _rated(curve, [program], used)
    await _check_count(environment, curve, rows)
    await database.execute(f"TRUNCATE {peer.table}")
    return turn


def _rated(curve: DrainCurve, programs: Sequence[Program], before: Sequence[float]) -> Turn:
    used = sum(program.cpu_seconds for program in programs) - sum(before)
    return Turn(curve.rate(), used / max(curve.gone, 1) * _THOUSAND)


async def _check_count(environment: Environment, curve: DrainCurve, rows: int) -> None:
    """Every row is one message in the queue; of a contender that was cut, those that are gone."""

    async def arrived() -> bool:
        await environment.purge()
        return environment.purged.count >= curve.gone

    await eventually(arrived, within=COUNT_SECONDS, message="messages are missing in the queue")
    if curve.gone == rows and environment.purged.count != rows:
        raise WrongCountError(f"{rows} rows gave {environment.purged.count} messages")


async def _published(contender: Program) -> Turn:
    async with contender as program:
        said = json.loads(last_line(await program.ended(within=2 * LONGEST_SECONDS)))
    return Turn(
        rate=said["rows"] / said["seconds"], cpu=said["cpu_seconds"] / said["rows"] * _THOUSAND
    )


def last_line(output: str) -> str:
    """The last line of a program's output."""
    lines: Sequence[str] = output.splitlines()
    return lines[-1]
