"""
Processes that are killed, stopped and asked to end, while events keep coming.
"""

import random

import pytest

from tests.reliability import process_faults
from tests.reliability.fault_run import FaultRun
from tests.reliability.figures import figures
from tests.reliability.guarantees import default_guarantees
from tests.reliability.history import read
from tests.reliability.roles import FREE, ORDERED, RELAY, UNHURRIED

BOTH = (FREE, ORDERED)
BATCH, SHIFTS = 10, 2


@pytest.mark.selection
@pytest.mark.timeout(600)
async def test_processes_killed_repeatedly_lose_no_event_and_apply_none_twice(
    environment, tmp_path, pytestconfig
):
    """F1: SIGKILL in a loop, of relays and of both kinds of consumers."""
    jitter, kills = random.Random(1), pytestconfig.getoption("kills")
    # Small batches keep the bound far below the copies of a relay that forgets everything.
    settings = {**UNHURRIED, "MQ_BATCH_SIZE": str(BATCH)}
    run = FaultRun(environment, tmp_path, drain_seconds=60, **settings)
    async with run:
        victims = [jitter.choice(run.supervisor.processes) for _ in range(kills)]
        bound = BATCH * SHIFTS * (sum(victim.role == RELAY for victim in victims) + 1)
        run.guarantees = default_guarantees(*BOTH, duplicates=bound)
        for victim in victims:
            async with run.record_fault(f"{victim.role} killed"):
                victim.kill()
                await run.wait(jitter.uniform(0.1, 0.7))
        await run.makes_progress()

    assert bound < figures(read(run.history.path)).sent
    assert sum(process.starts for process in run.supervisor.processes) > kills / 2


@pytest.mark.selection
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [10])
async def test_processes_that_hang_longer_than_all_deadlines_apply_no_event_twice(
    environment, tmp_path, seconds
):
    """F3: SIGSTOP of one process of each kind, past heartbeats and timeouts, and SIGCONT."""
    await hang(FaultRun(environment, tmp_path), seconds)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [30, 60])
async def test_processes_that_hang_for_a_minute_apply_no_event_twice(
    environment, tmp_path, seconds
):
    """F3: the same for 30 and 60 seconds."""
    await hang(FaultRun(environment, tmp_path), seconds)


async def hang(run: FaultRun, seconds: float) -> None:
    async with run:
        await run.makes_progress()
        relay, free, ordered = (run.supervisor[role][0] for role in (RELAY, *BOTH))
        async with (
            process_faults.frozen(run, relay),
            process_faults.frozen(run, free),
            process_faults.frozen(run, ordered),
        ):
            await run.wait(seconds)
        await run.makes_progress()


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_processes_terminated_under_load_leave_nothing_and_send_no_event_twice(
    environment, tmp_path
):
    """F4: SIGTERM under load, of each process in turn, twice: exit status 0, no copy more."""
    guarantees = default_guarantees(*BOTH, duplicates=0)
    async with FaultRun(environment, tmp_path, guarantees=guarantees, **UNHURRIED) as run:
        for process in [*run.supervisor.processes] * 2:
            await run.makes_progress(30)
            async with process_faults.terminated(run, process):
                pass
        await run.makes_progress()

    counted = figures(read(run.history.path))
    assert sum(counted.faults.values()) == 12
    assert counted.sent == counted.events


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_a_handler_that_blocks_its_event_loop_causes_no_second_effect(environment, tmp_path):
    """F22: a handler of each kind blocks its process, until the broker takes it for dead."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with process_faults.loop_blocked(run, 12):
            await run.makes_progress()
            async with process_faults.loop_blocked(run, 12):
                await run.wait(14)
        await run.makes_progress()


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_repeated_reconnects_leak_no_memory_and_no_descriptors(
    environment, tmp_path, pytestconfig
):
    """F30: all connections are reset many times, and processes stay as they are."""
    # The broker counts deliveries that are lost with their connections, although no process dies.
    async with FaultRun(environment, tmp_path, MQ_DELIVERY_LIMIT="1000") as run:
        for _ in range(pytestconfig.getoption("resets")):
            async with run.record_fault("all connections reset"):
                for proxy in run.proxies.named.values():
                    proxy.reset()
                await run.wait(0.15)
        await run.makes_progress()

    assert all(process.starts == 1 for process in run.supervisor.processes)
