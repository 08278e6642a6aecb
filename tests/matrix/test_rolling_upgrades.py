"""
Row F25: a rolling upgrade, and back, with events, retries, parked messages and dead letters.

The older version is the one under test; the newer ones are made of it by the test.
"""

import asyncio

import pytest

from tests.support import next_versions
from tests.support.next_versions import ADDED, CONTRACTED, HEAD
from tests.support.processes import ChildProcess
from tests.support.upgrading import Upgrade

pytestmark = [pytest.mark.fault, pytest.mark.selection, pytest.mark.timeout(300)]


async def end(*processes: ChildProcess) -> None:
    for process in processes:
        assert process.running, process.tail
        assert await process.terminate(within=40) == 0, process.tail
        assert "crashed" not in process.output


async def test_processes_are_replaced_one_by_one_and_back_without_losing_anything(
    postgres_url, rabbitmq_url, tmp_path
):
    newer = await asyncio.to_thread(next_versions.with_additions, tmp_path)
    newest = await asyncio.to_thread(next_versions.with_contraction, tmp_path)
    async with Upgrade(
        postgres_url, rabbitmq_url, tmp_path, MQ_UNSUPPORTED_WAIT_SECONDS="600"
    ) as deployment:
        old_consumers = await deployment.consumers()
        old_relay = await deployment.relay()
        async with deployment.producing():
            await deployment.makes_progress()

            deployment.program = newer
            await deployment.migrates(to=ADDED)
            await deployment.makes_progress()
            await old_relay.wait_for_line("schema_is_newer")

            # The wrong order: messages of the newer wire format wait for the newer consumers.
            new_relay = await deployment.relay()
            await end(old_relay)
            for consumer in old_consumers:
                await consumer.wait_for_line("message_unsupported", within=30)
            new_consumers = await deployment.consumers()
            await end(*old_consumers)
            await deployment.makes_progress()

            # Back, in the right order: relays first, and consumers when no newer message is left.
            deployment.program = None
            old_relay = await deployment.relay()
            await old_relay.wait_for_line("schema_is_newer")
            await end(new_relay)
            await deployment.makes_progress()
            old_consumers = await deployment.consumers()
            await end(*new_consumers)
            deployment.program = newer
            await deployment.migrates_down(to=HEAD)
            await deployment.makes_progress()

            # Processes that may no longer work on the tables wait, and do not start again.
            deployment.program = newest
            await deployment.migrates(to=CONTRACTED)
            for process in (old_relay, *old_consumers):
                assert f"from revision {ADDED} on" in await process.wait_for_line("schema_refused")
            deployment.program = None
            code, output = await deployment.ends("relay", "run")
            assert (code, f"only programs from revision {ADDED} on may work on it" in output) == (
                2,
                True,
            )
            deployment.program = newer
            new_consumers = await deployment.consumers()
            new_relay = await deployment.relay()
            await end(old_relay, *old_consumers)
            await deployment.makes_progress()
        await deployment.assert_all_applied_once_and_in_order()
        await end(new_relay, *new_consumers)
