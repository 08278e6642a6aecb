"""
A relay that waits until all queues of its consumers are bound.
"""

import json
from datetime import timedelta
from typing import Any

import pytest

import outbox
from consumer.queues import ConsumerQueues
from outbox.errors import TopologyMismatch
from outbox.tables import outbox as outbox_table
from tests.support.builders import an_event
from tests.support.consumer_deployment import broker
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.probes import get
from tests.support.processes import ChildProcess

EXCHANGE, DLX = "health_data_exchange", "health_data_dlx"
FIRST, SECOND = (
    ConsumerQueues(name, bindings=["test.#"], delays=[timedelta(seconds=1)])
    for name in ("first", "second")
)
EVENTS = 20


class Required(Deployment):
    """A relay's deployment, and the broker that it publishes to."""

    def __init__(self, *urls: str, directory: Any, **settings: str) -> None:
        super().__init__(*urls, directory, **settings)
        self.broker = broker(urls[1])

    async def declare(self, queues: ConsumerQueues) -> None:
        await self.broker.declare(queues.topology(main_exchange=EXCHANGE, dlx_exchange=DLX))

    async def commit(self, count: int) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(outbox.insert(*(an_event() for _ in range(count))))

    async def has(self, name: str, count: int) -> bool:
        depth = await self.broker.depth(name)
        return depth is not None and depth.messages == count

    async def both_have(self, count: int) -> None:
        for name in ("first", "second"):
            await eventually(lambda name=name: self.has(name, count), within=20)

    async def waits(self, relay: ChildProcess, *, rows: int) -> None:
        """The relay names the second queue, and the outbox keeps its *rows*."""
        await relay.wait_for_line("MQ_REQUIRED_QUEUES: queue second", within=20)
        port = json.loads(await relay.wait_for_line("probes_listening"))["port"]
        waiting = await eventually(lambda: get(port, "/readyz", status=503))
        assert waiting == b"waiting for: queue second\n"
        assert len(await self.rows(outbox_table)) == rows
        assert not await self.has("first", rows)


async def test_a_relay_waits_until_each_required_queue_can_be_bound(
    database_url, embedded_broker_url, tmp_path
):
    settings = {"MQ_REQUIRED_QUEUES": "first=test.#,second=test.#"}
    async with Required(
        database_url, embedded_broker_url, directory=tmp_path, **settings
    ) as deployment:
        await deployment.declare(FIRST)
        await deployment.commit(EVENTS)
        checked = await deployment.run("relay", "check")
        relay = await deployment.relay()
        await deployment.waits(relay, rows=EVENTS)
        await deployment.declare(SECOND)
        await deployment.both_have(EVENTS)

    assert checked.code == 2
    assert "error: MQ_REQUIRED_QUEUES: queue second does not exist" in checked.err


@pytest.mark.parametrize("items", ["first=test.#,second=test.#", "first,second"])
async def test_each_consumer_gets_the_backlog_after_the_exchange_was_deleted(
    sqlite_url, rabbitmq_server, rabbitmq_vhost, tmp_path, items
):
    """With patterns the relay binds the queues; without, it waits until consumers have."""
    settings = {"MQ_REQUIRED_QUEUES": items, "MQ_PUBLISH_RETRY_MAX_SECONDS": "1"}
    if "=" not in items:
        settings["MQ_MANAGEMENT_URL"] = rabbitmq_server.management_url
    async with Required(
        sqlite_url, rabbitmq_server.url(rabbitmq_vhost), directory=tmp_path, **settings
    ) as deployment:
        await deployment.declare(FIRST)
        await deployment.declare(SECOND)
        relay = await deployment.relay()
        await deployment.commit(1)
        await deployment.both_have(1)
        assert await relay.terminate() == 0
        await rabbitmq_server.http.request("DELETE", "exchanges", rabbitmq_vhost, EXCHANGE)
        await deployment.commit(EVENTS)

        relay = await deployment.relay()  # declares the exchange, without a binding
        if "=" not in items:
            await deployment.declare(FIRST)
            await deployment.waits(relay, rows=EVENTS)
            await deployment.declare(SECOND)
        await deployment.both_have(1 + EVENTS)


async def test_a_relay_notices_within_seconds_that_a_required_queue_was_unbound(
    sqlite_url, rabbitmq_server, rabbitmq_vhost, tmp_path
):
    settings = {
        "MQ_REQUIRED_QUEUES": "first,second",
        "MQ_MANAGEMENT_URL": rabbitmq_server.management_url,
    }
    binding = ("bindings", rabbitmq_vhost, "e", EXCHANGE, "q", "second", "test.%23")
    async with Required(
        sqlite_url, rabbitmq_server.url(rabbitmq_vhost), directory=tmp_path, **settings
    ) as deployment:
        await deployment.declare(FIRST)
        await deployment.declare(SECOND)
        relay = await deployment.relay()
        await rabbitmq_server.http.request("DELETE", *binding)
        await relay.wait_for_line("queue second is not bound", within=20)
        await deployment.commit(EVENTS)
        await deployment.waits(relay, rows=EVENTS)
        await deployment.declare(SECOND)
        await deployment.both_have(EVENTS)


async def test_a_required_queue_needs_a_pattern_or_the_management_api(
    sqlite_url, rabbitmq_url, tmp_path
):
    async with Required(
        sqlite_url, rabbitmq_url, directory=tmp_path, MQ_REQUIRED_QUEUES="first"
    ) as deployment:
        await deployment.declare(FIRST)
        refused = await deployment.run("relay", "run")
        checked = await deployment.run("relay", "check")

    for ended in (refused, checked):
        assert ended.code == 2
        assert "MQ_REQUIRED_QUEUES: first needs a pattern" in ended.err


async def test_all_entities_that_an_embedded_broker_lacks_are_named(embedded_broker_url):
    topology = FIRST.topology(main_exchange=EXCHANGE, dlx_exchange=DLX)

    with pytest.raises(TopologyMismatch) as mismatch:
        await broker(embedded_broker_url).verify(topology)

    assert len(str(mismatch.value).splitlines()) == len(topology.exchanges) + len(topology.queues)
