"""
The figures of brokers that `relay monitor` shows: the embedded one, and a real RabbitMQ.
"""

import secrets
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.transports.base import Outcome
from outbox.transports.broker_figures import QueueFigures
from outbox.transports.management import Management
from outbox.transports.rabbitmq.broker_figures import broker_figures
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.sqlite.management import SqliteManagement
from tests.support.builders import an_event, on_the_wire
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.eventually import eventually

QUEUES = ConsumerQueues("etl", bindings=["test.#"], delays=[SOON])


@pytest.fixture(params=["embedded", "rabbitmq"])
def served(request: pytest.FixtureRequest) -> tuple[str, Management]:
    """The URL of a broker, and the way to ask it for figures."""
    if request.param == "embedded":
        url = request.getfixturevalue("embedded_broker_url")
        return url, SqliteManagement(Path(URL(url).path[1:]))
    url = request.getfixturevalue("rabbitmq_url")
    return url, rabbitmq_management(request.getfixturevalue("rabbitmq_server"), url)


def rabbitmq_management(server, url: str, user: str | None = None) -> RabbitMQManagement:
    api = URL(server.management_url)
    if user is not None:
        api = api.with_user(user).with_password(user)
    return RabbitMQManagement(api, vhost=URL(url).path[1:])


async def test_a_broker_counts_the_messages_and_consumers_of_its_queues(served):
    url, management = served
    transport = broker(url)
    await transport.declare(QUEUES.topology(main_exchange=EXCHANGE, dlx_exchange="dlx"))
    async with transport.publisher() as publisher:
        messages = [on_the_wire(an_event(), exchange=EXCHANGE) for _ in range(3)]
        assert await publisher.publish(messages, within=SOON) == [Outcome.ACKED] * 3

    async def counted() -> QueueFigures | None:
        found = {each.name: each for each in (await management.figures()).queues}
        assert set(found) == set(QUEUES.names)
        own = found["etl"]
        return own if (own.messages, own.unsettled, own.consumers) == (3, 2, 1) else None

    async with transport.subscribe("etl", prefetch=2) as subscription:
        await subscription.take(2)
        assert await eventually(counted, within=20)


async def test_a_broker_says_how_much_disk_it_has_and_raises_no_alarm(served):
    url, management = served
    await broker(url).declare(QUEUES.topology(main_exchange=EXCHANGE, dlx_exchange="dlx"))

    found = await management.figures()

    [node] = found.nodes or []
    assert node.running
    assert (node.memory_alarm, node.disk_alarm, list(node.partitions)) == (False, False, [])
    assert node.disk_free is not None
    assert node.disk_free > 0
    assert found.version
    assert not found.not_shown


async def test_rabbitmq_shows_memory_and_connections(rabbitmq_server, rabbitmq_url):
    management = rabbitmq_management(rabbitmq_server, rabbitmq_url)

    async def connected() -> bool:
        found = await management.figures()
        names = {each.name for each in found.connections or ()}
        return "test" in " ".join(names) and not any(e.is_blocked for e in found.connections or ())

    async with broker(rabbitmq_url).publisher() as publisher:
        await publisher.ready()
        assert await eventually(connected, within=20)
    [node] = (await management.figures()).nodes or []
    assert 0 < (node.memory_ratio or 0) < 1


@asynccontextmanager
async def a_user(server, vhost: str, tags: str):
    """A user of the management API with these *tags*, whose password is its name."""
    name = f"test-{secrets.token_hex(8)}"
    await server.http.request("PUT", "users", name, body={"password": name, "tags": tags})
    try:
        allowed = {"configure": "", "write": "", "read": ".*"}
        await server.http.request("PUT", "permissions", vhost, name, body=allowed)
        yield name
    finally:
        await server.http.request("DELETE", "users", name)


async def test_a_user_without_the_tag_monitoring_sees_queues_and_no_nodes(
    rabbitmq_server, rabbitmq_url
):
    vhost = URL(rabbitmq_url).path[1:]
    transport = broker(rabbitmq_url)
    await transport.declare(QUEUES.topology(main_exchange=EXCHANGE, dlx_exchange="dlx"))

    async with a_user(rabbitmq_server, vhost, "management") as name:
        found = await rabbitmq_management(rabbitmq_server, rabbitmq_url, name).figures()
    async with a_user(rabbitmq_server, vhost, "") as name:
        with pytest.raises(ConfigurationError, match="lacks the tag management"):
            await rabbitmq_management(rabbitmq_server, rabbitmq_url, name).figures()

    assert {each.name for each in found.queues} == set(QUEUES.names)
    assert found.nodes is None
    assert "the tag monitoring" in found.not_shown[0]


async def test_the_figures_of_a_missing_file_are_unavailable_and_no_file_is_made(tmp_path):
    with pytest.raises(BrokerUnavailable, match="the file of the embedded broker is missing"):
        await SqliteManagement(tmp_path / "broker.db").figures()

    assert not list(tmp_path.iterdir())


def test_answers_without_statistics_have_no_rates():
    found = broker_figures(
        {},
        queues=[{"name": "q"}],
        nodes=[{"name": "n", "running": True, "disk_free": "disk_free_monitoring_disabled"}],
        connections=[{"client_properties": []}],
    )

    assert found.queues == [QueueFigures(name="q", messages=0, unsettled=0, consumers=0)]
    assert (found.published_rate, found.channels) == (None, None)
    assert [(node.disk_free, node.memory_ratio) for node in found.nodes or ()] == [(None, None)]
