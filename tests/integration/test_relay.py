"""
The relay process when events, Postgres or the broker fail.
"""

import json
from datetime import timedelta

import aio_pika
import sqlalchemy as sa
from yarl import URL

import outbox
from outbox.tables import outbox as table
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.proxy import Proxy

EXCHANGE = "health_data_exchange"
SOON = {"MQ_PUBLISH_RETRY_FIRST_SECONDS": "0.1", "MQ_PUBLISH_RETRY_MAX_SECONDS": "0.2"}


_OPEN_TRANSACTIONS = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    " AND datname = current_database() AND application_name LIKE 'relay%'"
)


def a_transport(url: str) -> RabbitMQTransport:
    return RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")


async def a_queue(url: str, pattern: str = "test.#") -> None:
    await a_transport(url).declare(
        Topology(
            [Exchange(EXCHANGE, "topic")],
            [Queue("seen", {"x-queue-type": "quorum"})],
            [Binding(EXCHANGE, "seen", pattern)],
        )
    )


async def messages_in(url: str, queue: str = "seen") -> list[aio_pika.abc.AbstractIncomingMessage]:
    """All messages of *queue*, read as another program would."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        found = await channel.get_queue(queue, ensure=False)
        messages = []
        while message := await found.get(fail=False):
            await message.ack()
            messages.append(message)
        return messages


async def commit(deployment: Deployment, *events) -> None:
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(*events))


async def no_transaction_is_open(deployment: Deployment) -> bool:
    """Whether no relay holds an idle transaction open."""
    async with deployment.engine.connect() as connection:
        return not await connection.scalar(_OPEN_TRANSACTIONS)


async def survives_the_loss_of_either(deployment: Deployment, one: Proxy, other: Proxy) -> None:
    """Commit an event while the proxy *one* is cut, and another while *other* is."""
    await one.cut()
    await commit(deployment, an_event())
    await eventually(deployment.is_drained, within=20)

    await one.restore()
    await other.cut()
    await commit(deployment, an_event())
    await eventually(deployment.is_drained, within=20)


async def test_an_event_is_dead_lettered_after_the_configured_attempts(
    postgres_url, rabbitmq_url, tmp_path
):
    settings = {**SOON, "MQ_PUBLISH_MAX_ATTEMPTS": "2"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        await deployment.relay()
        event = an_event(payload={"note": LEAK_MARKER})
        await commit(deployment, event)

        dead = (await eventually(deployment.dead))[0]

        assert (dead["source"], dead["reason"], dead["attempts"]) == ("relay", "unroutable", 2)
        assert (dead["message_id"], dead["body"]) == (str(event.id), event.body)
        assert await deployment.is_drained()


async def test_while_the_broker_is_unavailable_no_attempt_is_counted_and_no_transaction_open(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with (
        Proxy(rabbitmq_url) as proxy,
        Deployment(postgres_url, proxy.url, tmp_path) as deployment,
    ):
        relay = await deployment.relay()
        await proxy.cut()
        await relay.wait_for_line("server_unavailable")
        event = an_event()
        await commit(deployment, event)

        # A check of what maintenance is due takes milliseconds.
        await eventually(lambda: no_transaction_is_open(deployment))
        assert [row["attempts"] for row in await deployment.rows(table)] == [0]

        await proxy.restore()
        await eventually(deployment.is_drained)
        await relay.wait_for_line("server_available")

    assert [m.message_id for m in await messages_in(rabbitmq_url)] == [str(event.id)]


async def test_a_relay_waits_for_a_table_that_is_locked_for_long(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    settings = {"MQ_PUBLISH_TIMEOUT_SECONDS": "0.5"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        relay = await deployment.relay()
        async with deployment.engine.connect() as connection:
            await connection.execute(sa.text("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"))
            await relay.wait_for_line("server_unavailable")
            await connection.execute(outbox.insert(an_event()))
            await connection.commit()

        await eventually(deployment.is_drained)
        assert await relay.terminate() == 0


async def test_a_row_inserted_with_sql_arrives_and_another_language_can_read_it(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url, "health.#")
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            event_id = await connection.scalar(
                sa.text("""select outbox_add('health.file.stored', '{"bucket": "b"}')""")
            )
        await deployment.relay()
        await eventually(deployment.is_drained)

    (message,) = await messages_in(rabbitmq_url)
    assert message.body == b'{"bucket": "b"}'
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    assert (message.message_id, message.type) == (str(event_id), "health.file.stored")
    assert message.headers["x-outbox-idempotency-key"] == str(event_id)
    assert message.user_id is None


async def test_a_delayed_event_is_published_no_earlier_than_asked(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        await deployment.relay()
        async with deployment.engine.connect() as connection:
            now = await connection.scalar(sa.select(sa.func.clock_timestamp()))
        await commit(
            deployment, an_event(type="test.later", not_before=now + timedelta(seconds=1))
        )
        await commit(deployment, an_event(type="test.now"))

        await eventually(deployment.is_drained)
        async with deployment.engine.connect() as connection:
            assert await connection.scalar(sa.select(sa.func.clock_timestamp())) > now + timedelta(
                seconds=1
            )

    assert [m.type for m in await messages_in(rabbitmq_url)] == ["test.now", "test.later"]


async def test_a_second_relay_of_a_sqlite_file_stands_by_ready_and_says_when_it_takes_over(
    sqlite_url, embedded_broker_url, tmp_path
):
    async with Deployment(sqlite_url, embedded_broker_url, tmp_path) as deployment:
        first, second = await deployment.relay(), await deployment.relay()
        await eventually(lambda: "relay_stands_by" in first.output + second.output)
        if "relay_stands_by" in first.output:
            first, second = second, first
        line = json.loads(await second.wait_for_line("relay_stands_by"))
        port = json.loads(await second.wait_for_line("probes_listening"))["port"]
        await eventually(lambda: get(port, "/readyz"))
        assert await first.terminate() == 0
        await second.wait_for_line("relay_took_over")

    assert line["reason"] == "another relay holds the lock of the SQLite file"
    assert "relay_stands_by" not in first.output
    assert second.output.count("relay_stands_by") == 1


async def test_relays_run_side_by_side_on_one_host_and_answer_probes(
    postgres_url, rabbitmq_url, tmp_path
):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        deployment.unset("MQ_METRICS_PORT")
        ports = set()
        for relay in (await deployment.relay(), await deployment.relay()):
            port = json.loads(await relay.wait_for_line("probes_listening"))["port"]
            ports.add(port)
            await eventually(lambda port=port: get(port, "/readyz"))
            assert await get(port, "/livez") == b"ok\n"
            assert b"mq_outbox_backlog" in await get(port, "/metrics")
        assert len(ports) == 2
