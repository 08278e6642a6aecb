"""
The relay process when Postgres fails, and when there is no event.
"""

import socket

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from yarl import URL

import outbox
from outbox.database.engine import KEEPALIVE, create_engine
from tests.integration.test_relay import (
    a_queue,
    commit,
    messages_in,
    publishes_after_silence,
    survives_the_loss_of_either,
)
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import Proxy


def over(url: str, *proxies: Proxy) -> str:
    """The address of the database of *url*, to be reached through the first of *proxies*."""
    hosts = "&".join(f"host=127.0.0.1:{URL(proxy.url).port}" for proxy in proxies)
    address = make_url(url)
    return (
        f"postgresql://{address.username}:{address.password}@/{address.database}?{hosts}"
        "&target_session_attrs=read-write"
    )


async def test_a_database_that_falls_silent_is_noticed_and_no_event_is_lost(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with (
        Proxy(postgres_url) as proxy,
        Deployment(
            postgres_url,
            rabbitmq_url,
            tmp_path,
            MQ_DATABASE_URL=proxy.url,
            MQ_PUBLISH_TIMEOUT_SECONDS="0.5",
        ) as deployment,
    ):
        relay = await deployment.relay()

        event = await publishes_after_silence(deployment, relay, proxy)

        assert await relay.terminate(within=30) == 0
    assert {m.message_id for m in await messages_in(rabbitmq_url)} == {str(event.id)}


async def test_the_next_host_of_the_list_is_used_when_one_is_gone(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Proxy(postgres_url) as one, Proxy(postgres_url) as other:
        hosts = over(postgres_url, one, other)
        async with Deployment(
            postgres_url, rabbitmq_url, tmp_path, MQ_DATABASE_URL=hosts
        ) as deployment:
            await deployment.relay()
            await commit(deployment, an_event())
            await eventually(deployment.is_drained)

            await survives_the_loss_of_either(deployment, one, other)
    assert len({m.message_id for m in await messages_in(rabbitmq_url)}) == 3


async def test_a_relay_waits_for_a_postgres_that_restarts(
    postgres_url, postgres_server, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relay = await deployment.relay()
        await deployment.engine.dispose()
        await postgres_server.stop()
        await relay.wait_for_line("server_unavailable", within=20)

        await postgres_server.start()
        await commit(deployment, an_event())
        await eventually(deployment.is_drained, within=20)

        assert await relay.terminate() == 0
    assert len(await messages_in(rabbitmq_url)) == 1


async def test_a_connection_checks_whether_the_server_is_alive(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        peer = driver._transport.get_extra_info("socket")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in KEEPALIVE.items():
            assert peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    await engine.dispose()


async def test_an_idle_relay_is_woken_long_before_its_next_poll(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    settings = {"MQ_POLL_MAX_SECONDS": "60"}
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        await deployment.relay()
        for _ in range(5):
            await commit(deployment, an_event())
            await eventually(deployment.is_drained, within=20)


async def test_a_relay_that_only_polls_does_not_listen(postgres_url, rabbitmq_url, tmp_path):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, MQ_WAKEUP="poll") as deployment:
        await deployment.relay()
        await commit(deployment, an_event())
        await eventually(deployment.is_drained)

        async with deployment.engine.connect() as connection:
            listening = await connection.scalar(
                sa.text(
                    "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'LISTEN'"
                    " AND datname = current_database() AND application_name LIKE 'relay%'"
                )
            )
        assert listening == 0


async def test_events_of_many_keys_and_of_none_all_arrive_under_load(
    postgres_url, rabbitmq_url, tmp_path
):
    await a_queue(rabbitmq_url)
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, MQ_BATCH_SIZE="50") as deployment:
        await deployment.relay()
        keys = [None, "hot", *(f"key-{number}" for number in range(200))]
        events = [an_event(ordering_key=key) for key in keys for _ in range(3)]
        events += [an_event(ordering_key="hot") for _ in range(100)]
        async with deployment.engine.begin() as connection:
            await connection.execute(outbox.insert(*events))

        await eventually(deployment.is_drained, within=30)
    received = [m.message_id for m in await messages_in(rabbitmq_url)]
    assert sorted(received) == sorted(str(event.id) for event in events)
