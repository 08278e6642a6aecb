"""
Processes that are killed, stopped and asked to end, while events keep coming.
"""

import random

import pytest

from tests.reliability import process_faults
from tests.reliability.fault_run import Course
from tests.reliability.figures import figures
from tests.reliability.guarantees import promised
from tests.reliability.history import read
from tests.reliability.roles import FREE, ORDERED, RELAY, UNHURRIED

BOTH = (FREE, ORDERED)
BATCH, SHIFTS = 10, 2


@pytest.mark.selection
@pytest.mark.timeout(600)
async def test_processes_that_are_killed_again_and_again_lose_nothing_and_double_nothing(
    site, tmp_path, pytestconfig
):
    """F1: SIGKILL in a loop, of relays and of both kinds of consumers."""
    jitter, kills = random.Random(1), pytestconfig.getoption("kills")
    # Small batches, so that the bound is far below what a relay would send that forgets all.
    settings = {**UNHURRIED, "MQ_BATCH_SIZE": str(BATCH)}
    course = Course(site, tmp_path, drain_seconds=60, **settings)
    async with course:
        victims = [jitter.choice(course.crew.members) for _ in range(kills)]
        bound = BATCH * SHIFTS * (sum(victim.role == RELAY for victim in victims) + 1)
        course.promise = promised(*BOTH, duplicates=bound)
        for victim in victims:
            async with course.strike(f"{victim.role} killed"):
                victim.kill()
                await course.lasts(jitter.uniform(0.1, 0.7))
        await course.goes_on()

    assert bound < figures(read(course.chronicle.path)).sent
    assert sum(member.starts for member in course.crew.members) > kills / 2


@pytest.mark.selection
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [10])
async def test_processes_that_hang_for_longer_than_all_deadlines_double_nothing(
    site, tmp_path, seconds
):
    """F3: SIGSTOP of one process of each kind, past heartbeats and timeouts, and SIGCONT."""
    await hang(Course(site, tmp_path), seconds)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [30, 60])
async def test_processes_that_hang_for_long_double_nothing(site, tmp_path, seconds):
    """F3: likewise, for longer."""
    await hang(Course(site, tmp_path), seconds)


async def hang(course: Course, seconds: float) -> None:
    async with course:
        await course.goes_on()
        relay, free, ordered = (course.crew[role][0] for role in (RELAY, *BOTH))
        async with (
            process_faults.frozen(course, relay),
            process_faults.frozen(course, free),
            process_faults.frozen(course, ordered),
        ):
            await course.lasts(seconds)
        await course.goes_on()


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_processes_that_are_asked_to_end_under_load_leave_nothing_and_send_nothing_twice(
    site, tmp_path
):
    """F4: SIGTERM under load, of each process in turn, twice: exit status 0, no copy more."""
    promise = promised(*BOTH, duplicates=0)
    async with Course(site, tmp_path, promise=promise, **UNHURRIED) as course:
        for member in [*course.crew.members] * 2:
            await course.goes_on(30)
            async with process_faults.terminated(course, member):
                pass
        await course.goes_on()

    told = figures(read(course.chronicle.path))
    assert sum(told.faults.values()) == 12
    assert told.sent == told.events


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_a_handler_that_blocks_its_event_loop_doubles_nothing(site, tmp_path):
    """F22: a handler of each kind blocks its process, until the broker takes it for dead."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        async with process_faults.loop_blocked(course, 12):
            await course.goes_on()
            async with process_faults.loop_blocked(course, 12):
                await course.lasts(14)
        await course.goes_on()


@pytest.mark.selection
@pytest.mark.timeout(300)
async def test_connections_that_are_lost_again_and_again_cost_no_memory_and_no_descriptors(
    site, tmp_path, pytestconfig
):
    """F30: all connections are reset many times, and processes stay as they are."""
    # Deliveries that are lost with their connections count for the broker, although nobody dies.
    async with Course(site, tmp_path, MQ_DELIVERY_LIMIT="1000") as course:
        for _ in range(pytestconfig.getoption("resets")):
            async with course.strike("all connections reset"):
                for way in course.ways.named.values():
                    way.reset()
                await course.lasts(0.15)
        await course.goes_on()

    assert all(member.starts == 1 for member in course.crew.members)
