"""
The relay process when Postgres fails, and when there is no event.
"""

import socket

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from yarl import URL

from outbox.database.engine import create_engine
from outbox.database.postgres_engine import KEEPALIVE
from tests.integration.test_relay import (
    a_queue,
    commit,
    messages_in,
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
