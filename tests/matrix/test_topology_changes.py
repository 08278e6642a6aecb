"""
Rows F10 and F13: a broker that is restarted, or whose queues or exchanges are missing.
"""

import aio_pika
import pytest

from outbox.tables import outbox
from tests.reliability.history import Produced
from tests.support.checked_deployment import CONSUMER, FAILS_ONCE_EVERY, QUEUE, CheckedDeployment
from tests.support.effects import effects
from tests.support.eventually import eventually
from tests.support.servers import Management

pytestmark = pytest.mark.fault

EXCHANGE = "health_data_exchange"
PATTERN = "test.#"
TTL = {"MQ_MESSAGE_TTL_SECONDS": "2"}
PASSIVE = {"MQ_DECLARE_TOPOLOGY": "false"}
"""Otherwise a running consumer declares again what is missing, within 15 seconds."""


async def remove(url: str, gone: str) -> None:
    """Remove the main exchange, the binding, or the queue that *gone* names."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        match gone:
            case "exchange":
                await channel.exchange_delete(EXCHANGE)
            case "binding":
                await channel.queue_unbind(QUEUE, EXCHANGE, PATTERN)
            case queue:
                await channel.queue_delete(queue)


async def restore(deployment: CheckedDeployment) -> None:
    assert await deployment.command("consumer", "topology", CONSUMER) == 0


async def waits_as_unroutable(deployment: CheckedDeployment, *, at_least: int) -> None:
    """Wait until *at_least* events were returned; none of them may be dead-lettered."""

    async def are_there() -> bool:
        errors = [row["last_error"] for row in await deployment.rows(outbox)]
        return errors.count("unroutable") >= at_least

    await eventually(are_there, within=30)
    assert await deployment.dead() == []


async def test_processes_wait_for_a_broker_that_is_restarted_under_load(
    postgres_url, rabbitmq_url, rabbitmq_server, tmp_path
):
    """F10: restart."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        await deployment.start_processes()
        async with deployment.survives("broker restart", progress_seconds=20):
            await rabbitmq_server.restart()


@pytest.mark.selection
@pytest.mark.parametrize("gone", ["exchange", "binding"])
async def test_unroutable_events_wait_in_the_outbox_until_the_route_is_back(
    postgres_url, rabbitmq_url, tmp_path, gone
):
    """F10: exchange or binding removed."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path, **PASSIVE) as deployment:
        await restore(deployment)
        await deployment.start_processes()
        async with deployment.survives(f"{gone} removed", progress_seconds=20):
            await remove(rabbitmq_url, gone)
            await waits_as_unroutable(deployment, at_least=50)
            await restore(deployment)


@pytest.mark.selection
async def test_a_deleted_queue_ends_its_consumer_and_its_events_wait_for_the_next(
    postgres_url, rabbitmq_url, tmp_path
):
    """F10: queue deleted. Its messages would be lost, so it is empty."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        _, consumer = await deployment.start_processes()
        await deployment.produce(50)
        await deployment.wait_until_settled()

        await remove(rabbitmq_url, QUEUE)
        assert await consumer.wait(within=30) == 2
        assert f"queue {QUEUE} does not exist" in consumer.output
        deployment.expect_ended(consumer)
        await deployment.produce(50)
        await waits_as_unroutable(deployment, at_least=50)

        await deployment.consumer()
        await deployment.wait_until_settled()
        await deployment.check_guarantees()


@pytest.mark.selection
async def test_a_message_whose_retry_queue_is_missing_stays_in_the_work_queue(
    postgres_url, rabbitmq_url, rabbitmq_vhost, rabbitmq_server, tmp_path
):
    """F13: retry queue missing. Its messages would be lost, so it is empty."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path, **PASSIVE) as deployment:
        await restore(deployment)
        _, consumer = await deployment.start_processes()
        with deployment.record_fault("retry queue removed"):
            await remove(rabbitmq_url, f"{QUEUE}.retry.200ms")
            async with deployment.under_load():  # events that do not fail are applied
                await consumer.wait_for_line("handler_failed", within=60)
            await keeps_what_failed(deployment, rabbitmq_server.http, rabbitmq_vhost)
            await restore(deployment)
        async with deployment.under_load():
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        await deployment.check_guarantees()


async def keeps_what_failed(
    deployment: CheckedDeployment, management: Management, vhost: str
) -> None:
    """Wait until all other events are applied and the failed ones are in the work queue."""
    produced = sum(isinstance(record, Produced) for record in deployment.history)
    failing = produced // FAILS_ONCE_EVERY

    async def are_kept() -> bool:
        depth = (await management.queues(vhost))[QUEUE]
        are_there = depth.ready + depth.unacked == failing
        return are_there and await deployment.count(effects) == produced - failing

    await eventually(are_kept, within=60)
    assert await deployment.dead() == []


async def test_expired_messages_stay_in_the_work_queue_while_the_dead_queue_is_missing(
    postgres_url, rabbitmq_url, rabbitmq_vhost, rabbitmq_server, tmp_path
):
    """F13: dead queue missing. Messages expire meanwhile, and are requeued later."""
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path, **TTL) as deployment:
        _, consumer = await deployment.start_processes()
        await deployment.produce(50)
        await deployment.wait_until_settled()
        assert await consumer.terminate() == 0
        deployment.expect_ended(consumer)

        await remove(rabbitmq_url, f"{QUEUE}.dead")
        await deployment.produce(50)
        await eventually(deployment.is_drained)
        await have_expired(rabbitmq_server.http, rabbitmq_vhost, count=50)

        await restore(deployment)
        await deployment.consumer()
        await deployment.wait_until_settled()
        await deployment.check_guarantees()


async def have_expired(management: Management, vhost: str, *, count: int) -> None:
    """Wait until the work queue holds *count* expired messages that it cannot dead-letter."""

    async def are_held() -> bool:
        queue = await management.request("GET", "queues", vhost, QUEUE)
        return queue.get("messages_dlx", 0) >= count

    await eventually(are_held, within=30)
