"""
The relay process when events, Postgres or the broker fail.
"""

import json
from datetime import timedelta

import aio_pika
import pytest
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
from tests.support.processes import ChildProcess
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


async def publishes_after_silence(
    deployment: Deployment, relay: ChildProcess, proxy: Proxy
) -> outbox.Event:
    """Commit an event while the server behind *proxy* is silent, and have it published later."""
    await proxy.drop_all()
    event = an_event()
    await commit(deployment, event)
    await relay.wait_for_line("server_unavailable", within=20)

    await proxy.resume()
    await eventually(deployment.is_drained, within=20)
    return event


async def change(deployment: Deployment, event: outbox.Event, **values: str) -> None:
    """Change the row of *event* as no producer of ours would."""
    async with deployment.engine.begin() as connection:
        await connection.execute(
            sa.update(table).where(table.c.event_id == event.id).values(**values)
        )


async def test_an_unroutable_event_waits_and_is_sent_when_a_queue_appears(
    postgres_url, rabbitmq_url, tmp_path
):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **SOON) as deployment:
        await deployment.relay()
        event = an_event()
        await commit(deployment, event)

        async def tried_twice() -> bool:
            return any(row["attempts"] >= 2 for row in await deployment.rows(table))

        await eventually(tried_twice)
        assert (await deployment.rows(table))[0]["last_error"] == "unroutable"
        await a_queue(rabbitmq_url)
        await eventually(deployment.is_drained)

    assert [m.message_id for m in await messages_in(rabbitmq_url)] == [str(event.id)]


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
        await eventually(lambda: no_transaction_is_open(deployment), within=1)
        assert [row["attempts"] for row in await deployment.rows(table)] == [0]

        await proxy.restore()
        await eventually(deployment.is_drained)
        await relay.wait_for_line("server_available")

    assert [m.message_id for m in await messages_in(rabbitmq_url)] == [str(event.id)]


async def test_a_broker_that_falls_silent_is_noticed_and_no_message_is_lost(
    postgres_url, rabbitmq_url, tmp_path
):
    """aiormq then cancels the waits for confirms, in tasks that were not cancelled."""
    await a_queue(rabbitmq_url)
    async with (
        Proxy(rabbitmq_url) as proxy,
        Deployment(postgres_url, proxy.url, tmp_path, MQ_HEARTBEAT_SECONDS="1") as deployment,
    ):
        relay = await deployment.relay()
        before = an_event()  # published over the connection that falls silent
        await commit(deployment, before)
        await eventually(deployment.is_drained)

        event = await publishes_after_silence(deployment, relay, proxy)

        assert await deployment.dead() == []
        assert await relay.terminate() == 0
    received = {m.message_id for m in await messages_in(rabbitmq_url)}
    assert received == {str(before.id), str(event.id)}


async def test_a_lost_database_session_is_replaced(
    postgres_url, postgres_server, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        await deployment.relay()
        await commit(deployment, an_event())
        await eventually(deployment.is_drained)
        await deployment.engine.dispose()

        await postgres_server.disconnect_clients(postgres_url.rsplit("/", 1)[1])
        await commit(deployment, an_event())

        await eventually(deployment.is_drained)
    assert len(await messages_in(rabbitmq_url)) == 2


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


async def test_a_bad_row_among_good_ones_is_dead_lettered(postgres_url, rabbitmq_url, tmp_path):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        bad, good = an_event(), [an_event() for _ in range(20)]
        await commit(deployment, *good[:10], bad, *good[10:])
        await change(deployment, bad, routing_key="a b")
        await deployment.relay()

        dead = (await eventually(deployment.dead))[0]
        await eventually(deployment.is_drained)

        assert (dead["reason"], dead["message_id"]) == ("malformed", str(bad.id))
    received = {message.message_id for message in await messages_in(rabbitmq_url)}
    assert received == {str(event.id) for event in good}


async def test_an_event_that_the_broker_refuses_does_not_delay_its_neighbours(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        lost, good = an_event(), [an_event() for _ in range(300)]
        await commit(deployment, *good[:10], lost, *good[10:])
        await change(deployment, lost, exchange="missing")
        await deployment.relay()

        async def only_the_lost_one_is_left() -> bool:
            rows = await deployment.rows(table)
            return [(row["event_id"], row["last_error"]) for row in rows] == [
                (lost.id, "unroutable")
            ]

        await eventually(only_the_lost_one_is_left, within=20)
    received = {message.message_id for message in await messages_in(rabbitmq_url)}
    assert received == {str(event.id) for event in good}


async def test_a_row_inserted_with_sql_arrives_and_another_language_can_read_it(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url, "health.#")
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        async with deployment.engine.begin() as connection:
            event_id = await connection.scalar(
                sa.text("""select outbox_add('health.data.uploaded', '{"bucket": "b"}')""")
            )
        await deployment.relay()
        await eventually(deployment.is_drained)

    (message,) = await messages_in(rabbitmq_url)
    assert message.body == b'{"bucket": "b"}'
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    assert (message.message_id, message.type) == (str(event_id), "health.data.uploaded")
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


async def test_two_relays_keep_the_order_of_every_key_even_if_one_is_killed(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    settings = {"MQ_BATCH_SIZE": "20"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        doomed = await deployment.relay()
        await deployment.relay()
        for number in range(60):
            await commit(
                deployment,
                *(an_event(payload=[key, number], ordering_key=f"key-{key}") for key in range(10)),
            )
            if number == 30:
                doomed.kill()

        await eventually(deployment.is_drained, within=60)

    sequences: dict[int, list[int]] = {}
    seen = set()
    for message in await messages_in(rabbitmq_url):
        if message.message_id in seen:
            continue  # the killed relay's batch, published again
        seen.add(message.message_id)
        key, number = json.loads(message.body)
        sequences.setdefault(key, []).append(number)
    assert sequences == {key: list(range(60)) for key in range(10)}


async def test_an_exchange_of_another_kind_is_a_clear_error(postgres_url, rabbitmq_url, tmp_path):
    await a_transport(rabbitmq_url).declare(Topology([Exchange(EXCHANGE, "direct")]))
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        with pytest.raises(AssertionError, match="exit code 2") as caught:
            await deployment.relay()

    assert f"exchange {EXCHANGE} exists with another type" in str(caught.value)


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
