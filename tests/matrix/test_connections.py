"""
Connections between processes and servers that break, fall silent or become slow.
"""

import pytest

from tests.reliability import process_faults
from tests.reliability.fault_run import FaultRun
from tests.reliability.figures import figures
from tests.reliability.guarantees import default_guarantees
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
    environment, tmp_path
):
    """F5: TCP cut between relay and broker in the middle of confirms, ten times."""
    guarantees = default_guarantees(
        *BOTH, duplicates=BATCH * SHIFTS * RELAYS * 10, progress_seconds=15
    )
    async with FaultRun(environment, tmp_path, guarantees=guarantees) as run:
        for _ in range(10):
            async with process_faults.confirm_reset(run):
                pass
            await run.makes_progress(30)

    counted = figures(read(run.history.path))
    assert counted.duplicates > 0


@selection
@pytest.mark.parametrize("proxy", ["relay_broker", "consumer_broker", "relay_database"])
async def test_a_silent_peer_is_noticed_and_no_event_is_lost(environment, tmp_path, proxy):
    """F6: half-open connections; RabbitMQ's are noticed by heartbeats."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        role = RELAY if proxy.startswith("relay") else FREE
        async with process_faults.half_open(run, getattr(run.proxies, proxy)):
            for process in run.supervisor[role]:
                await process.wait_for_line("server_unavailable", within=30)
        await run.makes_progress()


async def test_consumers_resume_when_a_silent_database_answers_again(environment, tmp_path):
    """F6: half-open connections to Postgres."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with process_faults.half_open(run, run.proxies.consumer_database):
            await run.wait(10)
        await run.makes_progress()


@selection
async def test_lost_confirms_cause_copies_on_the_wire_and_no_second_effect(environment, tmp_path):
    """F7: only confirms are lost."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with process_faults.confirms_lost(run):
            await run.wait(8)
        await run.makes_progress()

    assert figures(read(run.history.path)).duplicates > 0


@selection
async def test_lost_acknowledgements_cause_no_second_effect(environment, tmp_path):
    """F7: only acknowledgements of consumers are lost, and then their connections."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        async with process_faults.acks_lost(run):
            await run.wait(5)
        await run.makes_progress()


@pytest.mark.parametrize("side", [Side.CLIENT, pytest.param(Side.SERVER, marks=selection)])
async def test_a_connection_that_works_in_one_direction_loses_no_event(
    environment, tmp_path, side
):
    """F7: the proxy drops data of the client, or of the server; to RabbitMQ, then to Postgres."""
    async with FaultRun(environment, tmp_path) as run:
        await run.makes_progress()
        for proxy in run.proxies.named.values():
            async with process_faults.one_way(run, proxy, silent=side):
                await run.wait(4)
            await run.makes_progress(30)


@pytest.mark.parametrize(
    "conditions",
    [
        pytest.param(process_faults.slow, marks=selection),
        process_faults.low_bandwidth,
        pytest.param(process_faults.fragmented, marks=selection),
    ],
)
async def test_slow_connections_lose_no_event(environment, tmp_path, conditions, record_property):
    """F8: latency with jitter, low bandwidth, fragments of a few bytes."""
    load = Load(events_per_second=20)
    async with FaultRun(environment, tmp_path, load=load) as run:
        await run.makes_progress(20)
        async with conditions(run, *run.proxies.named.values()):
            last = await run.last_effect()
            await run.wait(12)
            record_property("effects_per_second", await run.effects_after(last) / 12)
            await run.makes_progress(20)
        await run.makes_progress(20)
