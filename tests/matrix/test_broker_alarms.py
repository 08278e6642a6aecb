"""
Row F9: a broker without free memory or disk space, which blocks all publishers.
"""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from tests.support.checked_deployment import CheckedDeployment
from tests.support.eventually import eventually
from tests.support.servers import RabbitmqServer

pytestmark = pytest.mark.fault

ALARM_SECONDS = 8
SHORT_SECONDS = 4


def alarm(server: RabbitmqServer, resource: str) -> AbstractAsyncContextManager[None]:
    return server.memory_alarm() if resource == "memory" else server.disk_alarm()


async def longest_transaction(deployment: CheckedDeployment, *, during: float) -> float:
    """The age of a relay's oldest transaction, in seconds: the maximum seen *during* that time."""
    clock = asyncio.get_running_loop().time
    end, longest = clock() + during, 0.0

    async def is_over() -> bool:
        nonlocal longest
        longest = max(longest, await deployment.oldest_transaction())
        return clock() > end

    await eventually(is_over, within=during + 10)
    return longest


@pytest.mark.selection
@pytest.mark.parametrize("resource", ["memory", "disk"])
async def test_a_relay_holds_no_transaction_while_the_broker_blocks_publishers(
    postgres_url, rabbitmq_url, rabbitmq_server, tmp_path, resource
):
    """F9: the relay publishes again within 20 seconds after the alarm."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relay, _ = await deployment.start_processes()
        async with deployment.under_load():
            with deployment.record_fault(f"{resource} alarm"):
                async with alarm(rabbitmq_server, resource):
                    await relay.wait_for_line("server_unavailable", within=60)
                    held = await longest_transaction(deployment, during=ALARM_SECONDS)
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        assert held < SHORT_SECONDS
        await deployment.check_guarantees(progress_seconds=20)
