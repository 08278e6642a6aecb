"""
Ways between processes and servers that break, fall silent, or let little pass.
"""

import pytest

from tests.reliability import process_faults
from tests.reliability.fault_run import Course
from tests.reliability.figures import figures
from tests.reliability.guarantees import promised
from tests.reliability.history import read
from tests.reliability.producers import Load
from tests.reliability.roles import FREE, ORDERED, RELAY
from tests.support.network_conditions import Side

pytestmark = pytest.mark.timeout(300)
selection = pytest.mark.selection

BOTH = (FREE, ORDERED)
BATCH, SHIFTS, RELAYS = 100, 2, 2
HEARTBEAT_SECONDS = 3


@selection
async def test_a_relay_whose_connection_is_reset_before_its_confirms_recovers_at_once(
    site, tmp_path
):
    """F5: TCP cut between relay and broker in the middle of confirms, ten times."""
    promise = promised(*BOTH, duplicates=BATCH * SHIFTS * RELAYS * 10, progress_seconds=15)
    async with Course(site, tmp_path, promise=promise) as course:
        for _ in range(10):
            async with process_faults.confirm_reset(course):
                pass
            await course.goes_on(30)

    told = figures(read(course.chronicle.path))
    assert told.duplicates > 0


@selection
@pytest.mark.parametrize("way", ["relay_broker", "consumer_broker", "relay_database"])
async def test_a_peer_that_has_fallen_silent_is_noticed_and_nothing_is_lost(site, tmp_path, way):
    """F6: half-open connections; RabbitMQ's are noticed by heartbeats."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        role = RELAY if way.startswith("relay") else FREE
        async with process_faults.half_open(course, getattr(course.ways, way)):
            for member in course.crew[role]:
                await member.says("server_unavailable", within=30)
        await course.goes_on()


async def test_consumers_whose_database_has_fallen_silent_go_on_when_it_speaks(site, tmp_path):
    """F6: half-open connections to Postgres."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        async with process_faults.half_open(course, course.ways.consumer_database):
            await course.lasts(10)
        await course.goes_on()


@selection
async def test_confirms_that_are_lost_cost_copies_on_the_wire_and_double_no_effect(site, tmp_path):
    """F7: only confirms are lost."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        async with process_faults.confirms_lost(course):
            await course.lasts(8)
        await course.goes_on()

    assert figures(read(course.chronicle.path)).duplicates > 0


@selection
async def test_acknowledgements_that_are_lost_double_no_effect(site, tmp_path):
    """F7: only acknowledgements of consumers are lost, and then their connections."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        async with process_faults.acks_lost(course):
            await course.lasts(5)
        await course.goes_on()


@pytest.mark.parametrize("side", [Side.CLIENT, pytest.param(Side.SERVER, marks=selection)])
async def test_a_way_that_works_in_one_direction_only_loses_nothing(site, tmp_path, side):
    """F7: nothing of the client, or of the server, arrives; to RabbitMQ, then to Postgres."""
    async with Course(site, tmp_path) as course:
        await course.goes_on()
        for way in course.ways.named.values():
            async with process_faults.one_way(course, way, silent=side):
                await course.lasts(4)
            await course.goes_on(30)


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(process_faults.slow, marks=selection),
        process_faults.narrow,
        pytest.param(process_faults.torn, marks=selection),
    ],
)
async def test_slow_and_narrow_ways_lose_nothing(site, tmp_path, weather, record_property):
    """F8: latency with jitter, few bytes a second, pieces of a few bytes."""
    load = Load(events_per_second=20)
    async with Course(site, tmp_path, load=load) as course:
        await course.goes_on(20)
        async with weather(course, *course.ways.named.values()):
            last = await course.last_effect()
            await course.lasts(12)
            record_property("effects_per_second", await course.effects_after(last) / 12)
            await course.goes_on(20)
        await course.goes_on(20)
