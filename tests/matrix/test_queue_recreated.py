"""
Row F11: an operator recreates the work queue with other arguments.
"""

import json

import aio_pika
import pytest

from tests.support.checked_deployment import QUEUE, CheckedDeployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.processes import ChildProcess

pytestmark = [pytest.mark.fault, pytest.mark.selection]


async def port_of(process: ChildProcess) -> int:
    line = await process.wait_for_line("probes_listening")
    port: int = json.loads(line)["port"]
    return port


async def is_ready(port: int) -> bool:
    try:
        return bool(await get(port, "/readyz"))
    except OSError:
        return False


async def declare_again(url: str) -> None:
    """Replace the queue by one that drops messages that cannot be dead-lettered."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(QUEUE)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


async def test_a_consumer_stops_if_its_queue_was_recreated_with_other_arguments(
    postgres_url, rabbitmq_url, tmp_path
):
    """F11: it is not ready within 30 seconds, and says which argument differs."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        _, consumer = await deployment.start_processes()
        port = await port_of(consumer)
        await deployment.produce(50)
        await deployment.wait_until_settled()
        assert await is_ready(port)

        consumer.freeze()  # otherwise it would find no queue for a moment
        await declare_again(rabbitmq_url)
        consumer.thaw()

        assert await consumer.wait(within=30) == 2
        assert f"queue {QUEUE} exists with another x-" in consumer.output
        assert not await is_ready(port)
        deployment.expect_ended(consumer)
        await eventually(deployment.is_drained)
        await deployment.check_guarantees()
