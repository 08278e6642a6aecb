"""
The consumer process when messages, handlers, Postgres or the broker fail.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from yarl import URL

from consumer.storage.tables import processed_messages
from outbox.transports.base import Outcome
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.wire.codec import WireMessage
from tests.support.builders import an_event, on_the_wire
from tests.support.deployment import Deployment
from tests.support.effects import effects
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

QUEUE = "health_data_processing.effects"
EXCHANGE = "health_data_exchange"
TEN_SECONDS = timedelta(seconds=10)


def a_message(**changes) -> WireMessage:
    return on_the_wire(an_event(**changes), exchange=EXCHANGE)


async def publish(url: str, *messages: WireMessage) -> None:
    transport = RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")
    async with transport.publisher() as publisher:
        for message in messages:
            outcomes = await publisher.publish([message], within=TEN_SECONDS)
            assert outcomes == [Outcome.ACKED]


@pytest.fixture
async def deployment(postgres_url, rabbitmq_url, tmp_path):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        yield deployment


async def queue_is_empty(rabbitmq_url: str) -> bool:
    transport = RabbitMQTransport([URL(rabbitmq_url)], heartbeat_seconds=5, name="test")
    depth = await transport.depth(QUEUE)
    return depth is not None and depth.messages == 0


async def test_a_message_too_old_to_deduplicate_is_dead_lettered_until_an_operator_replays_it(
    deployment, rabbitmq_url
):
    await deployment.consumer()
    long_ago = datetime.now(UTC) - timedelta(days=31)
    old = on_the_wire(an_event(), exchange=EXCHANGE, created_at=long_ago)
    forged = replace(old, headers={**old.headers, "x-outbox-replay": str(uuid4())})

    await publish(rabbitmq_url, old, forged)

    async def both() -> bool:
        return [row["reason"] for row in await deployment.dead()] == 2 * ["too_old_to_dedupe"]

    await eventually(both)
    assert await deployment.applied() == []
    replay = ("dead", "replay", "tests.support.effects:consumer", "--all", "--because", "known")
    assert await deployment.command("consumer", *replay) == 0
    await deployment.applies(1)
    assert len(await deployment.applied()) == 1


async def test_a_consumer_killed_in_its_handler_leaves_the_message_to_another(
    deployment, rabbitmq_url
):
    doomed = await deployment.consumer()
    await publish(rabbitmq_url, a_message(type="test.waits"))
    await doomed.wait_for_line("handler_waits")

    doomed.kill()
    await deployment.consumer()

    await deployment.applies(1)
    await eventually(lambda: queue_is_empty(rabbitmq_url))
    assert len(await deployment.applied()) == 1
    assert await deployment.dead() == []


async def test_sigterm_lets_a_handler_finish(deployment, rabbitmq_url):
    consumer = await deployment.consumer()
    await publish(rabbitmq_url, a_message(type="test.takes.a.second"))
    await consumer.wait_for_line("handler_works")

    assert await consumer.terminate() == 0

    assert len(await deployment.applied()) == 1
    assert await queue_is_empty(rabbitmq_url)


@pytest.mark.parametrize("event_type", ["test.waits", "test.blocks.a.thread"])
async def test_a_handler_that_outlasts_the_drain_deadline_is_rolled_back(
    postgres_url, rabbitmq_url, tmp_path, event_type
):
    async with Deployment(
        postgres_url, rabbitmq_url, tmp_path, MQ_DRAIN_SECONDS="0.3"
    ) as deployment:
        consumer = await deployment.consumer()
        await publish(rabbitmq_url, a_message(type=event_type))
        await consumer.wait_for_line("handler_waits")

        assert await consumer.terminate() == 4

        assert await deployment.applied() == []
        assert not await queue_is_empty(rabbitmq_url)


MISDEEDS = [
    "is.cancelled.by.itself",
    "breaks.its.transaction",
    "rolls.back",
    "fails.at.commit",
    "uses.an.unavailable.database",
]


async def test_a_handler_that_spoils_its_own_transaction_has_failed(
    postgres_url, rabbitmq_url, tmp_path
):
    no_retries = {"MQ_MAX_RETRIES": "0"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **no_retries) as deployment:
        await deployment.consumer()
        await publish(rabbitmq_url, *(a_message(type=f"test.{misdeed}") for misdeed in MISDEEDS))

        async def all_are_dead() -> bool:
            return len(await deployment.dead()) >= len(MISDEEDS)

        await eventually(all_are_dead)
        assert {(row["type"], row["reason"]) for row in await deployment.dead()} == {
            (f"test.{misdeed}", "retries_exhausted") for misdeed in MISDEEDS
        }
        assert await deployment.applied() == []


async def test_while_the_database_is_unavailable_messages_wait_and_no_attempt_is_counted(
    postgres_url, rabbitmq_url, tmp_path
):
    async with (
        Proxy(postgres_url) as proxy,
        Deployment(postgres_url, rabbitmq_url, tmp_path, MQ_DATABASE_URL=proxy.url) as deployment,
    ):
        consumer = await deployment.consumer()
        await proxy.cut()
        await publish(rabbitmq_url, *(a_message() for _ in range(20)))
        await consumer.wait_for_line("server_unavailable")

        await proxy.restore()

        await deployment.applies(20)
        rows = await deployment.rows(effects)
        assert {row["attempt"] for row in rows} == {1}
        assert len(rows) == 20
        assert await deployment.dead() == []


async def test_a_lost_broker_connection_is_replaced(postgres_url, rabbitmq_url, tmp_path):
    async with (
        Proxy(rabbitmq_url) as proxy,
        Deployment(postgres_url, proxy.url, tmp_path) as deployment,
    ):
        consumer = await deployment.consumer()
        await publish(rabbitmq_url, a_message())
        await deployment.applies(1)

        await proxy.cut()
        await publish(rabbitmq_url, a_message())
        await consumer.wait_for_line("server_unavailable")
        await proxy.restore()

        await deployment.applies(2)
        assert await consumer.terminate() == 0


async def test_the_dedup_row_says_how_long_the_handler_took(deployment, rabbitmq_url):
    await deployment.consumer()
    await publish(rabbitmq_url, a_message(correlation_id="c"))

    async def timed() -> list[sa.RowMapping]:
        rows = await deployment.rows(processed_messages)
        return [row for row in rows if row["processing_duration_seconds"] is not None]

    (row,) = await eventually(timed)

    assert (row["consumer"], row["status"], row["attempts"]) == ("effects", "completed", 1)
    assert row["correlation_id"] == "c"
    assert 0 <= row["processing_duration_seconds"] < 10
