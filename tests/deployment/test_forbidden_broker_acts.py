"""
Acts that RabbitMQ refuses to the users of `deploy/rabbitmq/definitions.json`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aio_pika
import pytest
import pytest_asyncio
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelAccessRefused
from yarl import URL

from tests.support.installation import USERS, Installation
from tests.support.servers.management import Management, ManagementError

Act: TypeAlias = Callable[[AbstractChannel], Awaitable[Any]]
EXCHANGE, DLX = "health_data_exchange", "health_data_dlx"
OWN, OTHER = "health_data_processing.etl", "health_data_processing.audit"
QUORUM = {"x-queue-type": "quorum"}


def publish(exchange: str, routing_key: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False)
        if exchange == "":
            target = channel.default_exchange
        await target.publish(aio_pika.Message(b"{}"), routing_key, mandatory=False)

    return act


def declare(queue: str) -> Act:
    return lambda channel: channel.declare_queue(queue, durable=True, arguments=QUORUM)


def delete(queue: str) -> Act:
    return lambda channel: channel.queue_delete(queue)


def get(queue: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).get(fail=False)

    return act


def consume(queue: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).consume(_ignore)

    return act


def purge(queue: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).purge()

    return act


def bind(queue: str, pattern: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).bind(EXCHANGE, pattern)

    return act


def unbind(queue: str, pattern: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).unbind(EXCHANGE, pattern)

    return act


async def _ignore(_message: object) -> None:
    """Take a message that must never come."""


def declare_exchange(name: str) -> Act:
    return lambda channel: channel.declare_exchange(
        name, aio_pika.ExchangeType.TOPIC, durable=True
    )


def delete_exchange(name: str) -> Act:
    return lambda channel: channel.exchange_delete(name)


ACTS: dict[str, tuple[str, Act]] = {
    "a relay consumes from a queue": ("relay", consume(OWN)),
    "a relay takes a message out of a queue": ("relay", get(OWN)),
    "a relay empties a queue": ("relay", purge(OWN)),
    "a relay declares a queue": ("relay", declare("health_data_processing.new")),
    "a relay deletes a queue": ("relay", delete(OWN)),
    "a relay binds a queue": ("relay", bind(OWN, "#")),
    "a relay declares an exchange": ("relay", declare_exchange("health_data_other")),
    "a relay deletes its exchange": ("relay", delete_exchange(EXCHANGE)),
    "a relay publishes past its exchange": ("relay", publish("", OWN)),
    "a relay publishes to the exchange of dead letters": ("relay", publish(DLX, OWN)),
    "a relay publishes outside its topics": ("relay", publish(EXCHANGE, "payment.made")),
    "a consumer publishes events": (
        "consumer_etl",
        publish(EXCHANGE, "health.processing.bloodglucoserecord.normal"),
    ),
    "a consumer reads the queue of another": ("consumer_etl", consume(OTHER)),
    "a consumer takes a message of another": ("consumer_etl", get(OTHER)),
    "a consumer empties the queue of another": ("consumer_etl", purge(OTHER)),
    "a consumer declares the queue of another": ("consumer_etl", declare(OTHER)),
    "a consumer deletes the queue of another": ("consumer_etl", delete(OTHER)),
    "a consumer declares a queue whose name begins like its own": (
        "consumer_etl",
        declare(f"{OWN}2"),
    ),
    "a consumer binds its queue to more events": ("consumer_etl", bind(OWN, "#")),
    "a consumer removes its binding": ("consumer_etl", unbind(OWN, "health.processing.#")),
    "a consumer deletes the exchange": ("consumer_etl", delete_exchange(EXCHANGE)),
    "a consumer declares an exchange": ("consumer_etl", declare_exchange("health_data_other")),
    "topology publishes events": ("topology", publish(EXCHANGE, "health.data.uploaded")),
    "topology binds a queue outside its topics": ("topology", bind(OWN, "payment.#")),
    "topology declares a queue of another system": ("topology", declare("billing")),
    "an operator consumes from a queue": ("operator", consume(OWN)),
    "an operator empties a queue": ("operator", purge(OWN)),
    "an operator deletes a queue": ("operator", delete(OWN)),
    "an operator publishes events": ("operator", publish(EXCHANGE, "health.data.uploaded")),
    "monitoring consumes from a queue": ("monitoring", consume(OWN)),
    "monitoring publishes events": ("monitoring", publish(EXCHANGE, "health.data.uploaded")),
    "monitoring publishes to a queue": ("monitoring", publish("", OWN)),
    "monitoring deletes a queue": ("monitoring", delete(OWN)),
}

VHOST, ANYONE = "{vhost}", "{user}"
REQUESTS: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
    "monitoring reads a message": (
        "monitoring",
        "POST",
        ("queues", VHOST, OWN, "get"),
        {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"},
    ),
    "monitoring publishes a message": (
        "monitoring",
        "POST",
        ("exchanges", VHOST, EXCHANGE, "publish"),
        {
            "properties": {},
            "routing_key": "health.data.uploaded",
            "payload": "{}",
            "payload_encoding": "string",
        },
    ),
    "monitoring empties a queue": ("monitoring", "DELETE", ("queues", VHOST, OWN, "contents"), {}),
    "monitoring changes a policy": (
        "monitoring",
        "PUT",
        ("policies", VHOST, "short"),
        {"pattern": ".*", "definition": {"max-length": 1}},
    ),
    "monitoring changes its permissions": (
        "monitoring",
        "PUT",
        ("permissions", VHOST, ANYONE),
        {"configure": ".*", "write": ".*", "read": ".*"},
    ),
    "monitoring adds a user": (
        "monitoring",
        "PUT",
        ("users", "intruder"),
        {"password": "x", "tags": "administrator"},
    ),
    "monitoring adds a virtual host": ("monitoring", "PUT", ("vhosts", "intruder"), {}),
    "monitoring deletes the virtual host": ("monitoring", "DELETE", ("vhosts", VHOST), {}),
    "monitoring reads the hashes of passwords": ("monitoring", "GET", ("users",), {}),
    "a relay uses the management API": ("relay", "GET", ("queues",), {}),
    "a consumer uses the management API": ("consumer_etl", "GET", ("queues",), {}),
    "an operator uses the management API": ("operator", "GET", ("queues",), {}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def populated(installation: Installation) -> Installation:
    """An installation with the queue of another consumer, so that it can be acted on."""
    async with await aio_pika.connect(installation.broker("topology")) as connection:
        await declare(OTHER)(await connection.channel())
    return installation


@pytest.mark.parametrize("act", ACTS)
async def test_rabbitmq_refuses_that(act, populated):
    user, attempt = ACTS[act]
    async with await aio_pika.connect(populated.broker(user)) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await attempt(channel)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_the_management_api_refuses_that(request_, populated):
    user, method, path, body = REQUESTS[request_]
    names = {VHOST: populated.vhost_name, ANYONE: f"{populated.prefix}{user}"}

    with pytest.raises(ManagementError, match=r": 40[13] |ACCESS_REFUSED"):
        await Management(populated.api(user)).request(
            method, *(names.get(part, part) for part in path), body=body
        )


async def test_monitoring_sees_depths_and_connections(populated):
    management = Management(populated.api("monitoring"))

    assert {OWN, OTHER} <= {*await management.queues(populated.vhost_name)}
    assert await management.connections(populated.vhost_name) is not None
    assert await management.request("GET", "overview")


async def test_no_user_may_enter_another_virtual_host(populated, rabbitmq_url):
    for user in USERS:
        url = URL(populated.broker(user)).with_path(URL(rabbitmq_url).path)
        with pytest.raises(AMQPError):
            await aio_pika.connect(str(url))
