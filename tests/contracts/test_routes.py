"""
Where each broker routes a routing key, as its management tells it and as a publish finds it.
"""

from datetime import timedelta
from pathlib import Path

import pytest
from yarl import URL

from outbox.transports.base import Outcome, Transport
from outbox.transports.management import Management
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.redis.management import RedisManagement
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.routes import RouteState
from outbox.transports.sqlite.management import SqliteManagement
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from tests.support.builders import an_event, on_the_wire

TOPOLOGY = Topology(
    [Exchange("events", "topic"), Exchange("exact", "direct")],
    [Queue("work")],
    [Binding("events", "work", "health.#"), Binding("exact", "work", "a.b")],
)


@pytest.fixture(params=["rabbitmq", "redis", "sqlite"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Transport, Management]:
    if request.param == "sqlite":
        return SqliteTransport(tmp_path / "broker.db"), SqliteManagement(tmp_path / "broker.db")
    if request.param == "redis":
        urls = [URL(request.getfixturevalue("redis_url"))]
        return RedisTransport(urls, name="test"), RedisManagement(urls, name="test")
    server = request.getfixturevalue("rabbitmq_server")
    vhost = request.getfixturevalue("rabbitmq_vhost")
    url = URL(request.getfixturevalue("rabbitmq_url"))
    return (
        RabbitMQTransport([url], heartbeat_seconds=5, name="test"),
        RabbitMQManagement(URL(server.management_url), vhost=vhost),
    )


async def test_a_broker_tells_of_each_routing_key_what_a_publish_would_find(broker):
    transport, management = broker
    keys = {
        "events": ["health.steps", "payment.made"],
        "exact": ["a.b", "a.c"],
        "": ["work", "missing"],
        "gone": ["health.steps"],
    }
    assert await management.routes("events", ["a"]) == {"a": RouteState.NO_EXCHANGE}
    await transport.declare(TOPOLOGY)

    answered = {name: await management.routes(name, asked) for name, asked in keys.items()}

    assert answered == {
        "events": {"health.steps": RouteState.BOUND, "payment.made": RouteState.NO_QUEUE},
        "exact": {"a.b": RouteState.BOUND, "a.c": RouteState.NO_QUEUE},
        "": {"work": RouteState.BOUND, "missing": RouteState.NO_QUEUE},
        "gone": {"health.steps": RouteState.NO_EXCHANGE},
    }
    for exchange, states in answered.items():
        for key, state in states.items():
            message = on_the_wire(an_event(routing_key=key), exchange=exchange)
            async with transport.publisher() as publisher:
                [outcome] = await publisher.publish([message], within=timedelta(seconds=5))
            assert (outcome is Outcome.ACKED) == (state is RouteState.BOUND), (exchange, key)


async def test_rabbitmq_is_asked_for_bound_and_alternate_exchanges_too(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    http = rabbitmq_server.http
    spare = {"alternate-exchange": "spare"}
    for name, arguments in {"spare": {}, "inner": {}, "main": spare}.items():
        body = {"type": "topic", "arguments": arguments}
        await http.request("PUT", "exchanges", rabbitmq_vhost, name, body=body)
    await http.request("PUT", "queues", rabbitmq_vhost, "work")
    for path, pattern in (
        (("main", "e", "inner"), "a.*"),
        (("inner", "q", "work"), "a.b"),
        (("spare", "q", "work"), "c"),
    ):
        source, kind, target = path
        await http.request(
            "POST",
            *("bindings", rabbitmq_vhost, "e", source, kind, target),
            body={"routing_key": pattern},
        )
    management = RabbitMQManagement(URL(rabbitmq_server.management_url), vhost=rabbitmq_vhost)

    assert await management.routes("main", ["a.b", "a.c", "c", "d"]) == {
        "a.b": RouteState.BOUND,
        "a.c": RouteState.NO_QUEUE,
        "c": RouteState.BOUND,
        "d": RouteState.NO_QUEUE,
    }
