"""
Faults drawn at random, from a seed: what strikes next, whom, and for how long.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.reliability import process_faults, server_faults
from tests.reliability.fault_run import Course
from tests.reliability.process_faults import Fault
from tests.support.breakpoints import BreakpointProxy
from tests.support.network_conditions import Side

Strike: TypeAlias = Callable[[Course, random.Random], Fault]

LONGEST_BLOCK_SECONDS = 8.0
OVERLAPPING = (1, 1, 1, 2, 2, 3)
"""How many faults strike at a time, each equally likely."""


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of fault.

    Args:
        weight: How often it is drawn, compared with others.
        seconds: The shortest and the longest time that it lasts.
        of_server: Whether it takes a server away: there is one of these at a time.

    """

    weight: int
    seconds: tuple[float, float]
    strike: Strike
    of_server: bool = False


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault that is about to strike, and lasts so many seconds."""

    strike: Strike
    seconds: float


def next_blows(chance: random.Random) -> list[Blow]:
    """What strikes next, side by side."""
    blows: list[Blow] = []
    for _ in range(chance.choice(OVERLAPPING)):
        kinds = [kind for kind in KINDS if not (blows and kind.of_server)]
        (kind,) = chance.choices(kinds, [kind.weight for kind in kinds])
        blows.append(Blow(kind.strike, chance.uniform(*kind.seconds)))
    return blows


def _way(course: Course, chance: random.Random) -> BreakpointProxy:
    return chance.choice(list(course.ways.named.values()))


def _to_postgres(course: Course, chance: random.Random) -> BreakpointProxy:
    ways = course.ways
    return chance.choice([ways.relay_database, ways.consumer_database, ways.producer_database])


def _one_way(course: Course, chance: random.Random) -> Fault:
    return process_faults.one_way(course, _way(course, chance), silent=chance.choice(list(Side)))


def _loop_blocked(course: Course, chance: random.Random) -> Fault:
    return process_faults.loop_blocked(course, chance.uniform(1, LONGEST_BLOCK_SECONDS))


def _lingers(course: Course, chance: random.Random) -> Fault:
    return process_faults.handler_lingers(course, chance.uniform(1, LONGEST_BLOCK_SECONDS))


def _on_member(fault: Callable[..., Fault]) -> Strike:
    return lambda course, chance: fault(course, chance.choice(course.crew.members))


def _on_way(fault: Callable[..., Fault]) -> Strike:
    return lambda course, chance: fault(course, _way(course, chance))


def _on_all(fault: Callable[..., Fault]) -> Strike:
    return lambda course, _chance: fault(course)


KINDS: Sequence[Kind] = (
    Kind(8, (0, 1), _on_member(process_faults.killed)),
    Kind(4, (0, 1), _on_member(process_faults.terminated)),
    Kind(4, (1, 15), _on_member(process_faults.frozen)),
    Kind(6, (0, 1), _on_way(process_faults.reset)),
    Kind(3, (0.5, 8), _on_way(process_faults.cut)),
    Kind(3, (1, 15), _on_way(process_faults.half_open)),
    Kind(3, (1, 10), _one_way),
    Kind(2, (2, 10), _on_way(process_faults.slow)),
    Kind(2, (2, 10), _on_way(process_faults.narrow)),
    Kind(2, (2, 10), _on_way(process_faults.torn)),
    Kind(3, (1, 6), _on_all(process_faults.confirms_lost)),
    Kind(3, (1, 6), _on_all(process_faults.acks_lost)),
    Kind(
        6,
        (0, 1),
        lambda course, chance: process_faults.commit_unanswered(
            course, _to_postgres(course, chance)
        ),
    ),
    Kind(4, (0, 1), _on_all(process_faults.confirm_reset)),
    Kind(2, (1, 9), _loop_blocked),
    Kind(2, (1, 9), _lingers),
    Kind(4, (0, 1), lambda course, _chance: server_faults.sessions_ended(course, share=0.5)),
    Kind(1, (0, 5), _on_all(server_faults.postgres_crashed), of_server=True),
    Kind(1, (0, 5), _on_all(server_faults.rabbitmq_restarted), of_server=True),
    Kind(1, (0, 5), _on_all(server_faults.rabbitmq_crashed), of_server=True),
    Kind(1, (2, 10), _on_all(server_faults.alarmed), of_server=True),
)
