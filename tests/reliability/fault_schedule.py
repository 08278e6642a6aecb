"""
Draws random faults from a seed: their kind, their target and their duration.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.reliability import process_faults, server_faults
from tests.reliability.fault_run import FaultRun
from tests.reliability.process_faults import Fault
from tests.support.breakpoints import BreakpointProxy
from tests.support.network_conditions import Side

FaultFactory: TypeAlias = Callable[[FaultRun, random.Random], Fault]

LONGEST_BLOCK_SECONDS = 8.0
OVERLAPPING = (1, 1, 1, 2, 2, 3)
"""How many faults strike at a time, each equally likely."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """
    A kind of fault.

    Args:
        weight: How often it is drawn, compared with others.
        seconds: Its shortest and its longest duration.
        of_server: Whether it makes a server unavailable: only one of these is injected at a time.

    """

    weight: int
    seconds: tuple[float, float]
    inject: FaultFactory
    of_server: bool = False


@dataclass(frozen=True, slots=True)
class ScheduledFault:
    """A fault to be injected, and its duration in seconds."""

    inject: FaultFactory
    seconds: float


def next_faults(chance: random.Random) -> list[ScheduledFault]:
    """The faults to inject next, at the same time."""
    faults: list[ScheduledFault] = []
    for _ in range(chance.choice(OVERLAPPING)):
        kinds = [kind for kind in KINDS if not (faults and kind.of_server)]
        (kind,) = chance.choices(kinds, [kind.weight for kind in kinds])
        faults.append(ScheduledFault(kind.inject, chance.uniform(*kind.seconds)))
    return faults


def _proxy(run: FaultRun, chance: random.Random) -> BreakpointProxy:
    return chance.choice(list(run.proxies.named.values()))


def _to_postgres(run: FaultRun, chance: random.Random) -> BreakpointProxy:
    proxies = run.proxies
    return chance.choice(
        [proxies.relay_database, proxies.consumer_database, proxies.producer_database]
    )


def _one_way(run: FaultRun, chance: random.Random) -> Fault:
    return process_faults.one_way(run, _proxy(run, chance), silent=chance.choice(list(Side)))


def _loop_blocked(run: FaultRun, chance: random.Random) -> Fault:
    return process_faults.loop_blocked(run, chance.uniform(1, LONGEST_BLOCK_SECONDS))


def _is_slow(run: FaultRun, chance: random.Random) -> Fault:
    return process_faults.handler_slow(run, chance.uniform(1, LONGEST_BLOCK_SECONDS))


def _on_member(fault: Callable[..., Fault]) -> FaultFactory:
    return lambda run, chance: fault(run, chance.choice(run.supervisor.processes))


def _on_way(fault: Callable[..., Fault]) -> FaultFactory:
    return lambda run, chance: fault(run, _proxy(run, chance))


def _on_all(fault: Callable[..., Fault]) -> FaultFactory:
    return lambda run, _chance: fault(run)


KINDS: Sequence[FaultKind] = (
    FaultKind(8, (0, 1), _on_member(process_faults.killed)),
    FaultKind(4, (0, 1), _on_member(process_faults.terminated)),
    FaultKind(4, (1, 15), _on_member(process_faults.frozen)),
    FaultKind(6, (0, 1), _on_way(process_faults.reset)),
    FaultKind(3, (0.5, 8), _on_way(process_faults.cut)),
    FaultKind(3, (1, 15), _on_way(process_faults.half_open)),
    FaultKind(3, (1, 10), _one_way),
    FaultKind(2, (2, 10), _on_way(process_faults.slow)),
    FaultKind(2, (2, 10), _on_way(process_faults.low_bandwidth)),
    FaultKind(2, (2, 10), _on_way(process_faults.fragmented)),
    FaultKind(3, (1, 6), _on_all(process_faults.confirms_lost)),
    FaultKind(3, (1, 6), _on_all(process_faults.acks_lost)),
    FaultKind(
        6,
        (0, 1),
        lambda run, chance: process_faults.commit_unanswered(run, _to_postgres(run, chance)),
    ),
    FaultKind(4, (0, 1), _on_all(process_faults.confirm_reset)),
    FaultKind(2, (1, 9), _loop_blocked),
    FaultKind(2, (1, 9), _is_slow),
    FaultKind(4, (0, 1), lambda run, _chance: server_faults.sessions_ended(run, share=0.5)),
    FaultKind(1, (0, 5), _on_all(server_faults.postgres_crashed), of_server=True),
    FaultKind(1, (0, 5), _on_all(server_faults.rabbitmq_restarted), of_server=True),
    FaultKind(1, (0, 5), _on_all(server_faults.rabbitmq_crashed), of_server=True),
    FaultKind(1, (2, 10), _on_all(server_faults.alarmed), of_server=True),
)
