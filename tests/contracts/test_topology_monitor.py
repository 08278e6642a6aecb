"""
The topology monitor on real brokers: queues, bindings and policies that change while it runs.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import structlog
from prometheus_client import CollectorRegistry
from yarl import URL

from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.queues import ConsumerQueues
from outbox.errors import ConfigurationError
from outbox.runtime.probes import Health
from outbox.runtime.topology_report import TopologyReport, check, check_policies
from outbox.transports.base import NoCounter, Transport
from outbox.transports.management import Management
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.sqlite import schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.sqlite.management import SqliteManagement
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Topology

QUEUES = ConsumerQueues("work", bindings=["a.#", "b.*"], delays=[timedelta(seconds=1)])
OLDER = replace(QUEUES, delivery_limit=20)
TOPOLOGY = QUEUES.topology(main_exchange="events", dlx_exchange="dead-letters")


class Monitored:
    """A monitor whose reports are read."""

    def __init__(
        self, transport: Transport, management: Management | None, *, declares: bool = True
    ) -> None:
        self.registry = CollectorRegistry()
        self.health = Health()
        self.monitor = TopologyMonitor(
            transport=transport,
            queues=QUEUES,
            topology=TOPOLOGY,
            report=TopologyReport(self.registry, self.health),
            management=management,
            declares=declares,
        )

    async def lines(self) -> list[Any]:
        """What one inspection logs above the level debug."""
        with structlog.testing.capture_logs() as lines:
            await self.monitor.inspect()
        return [line for line in lines if line["log_level"] != "debug"]

    def count(self, kind: str) -> float | None:
        return self.registry.get_sample_value("mq_topology_problems", {"kind": kind})

    @property
    def is_ready(self) -> bool:
        return not self.health.missing


class Rabbit:
    """A virtual host whose policies, queues and bindings are changed."""

    def __init__(self, server: Any, vhost: str, url: str) -> None:
        self._http, self._vhost, self._url = server.http, vhost, url
        self.transport = RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")
        self.management = RabbitMQManagement(URL(server.management_url), vhost=vhost)

    async def set_policy(self, *, operator: bool = False, **definition: Any) -> None:
        kind = "operator-policies" if operator else "policies"
        body = {
            "pattern": ".*",
            "definition": {key.replace("_", "-"): value for key, value in definition.items()},
            "apply-to": "queues",
        }
        await self._http.request("PUT", kind, self._vhost, "careless", body=body)

    async def drop_policy(self, *, operator: bool = False) -> None:
        kind = "operator-policies" if operator else "policies"
        await self._http.request("DELETE", kind, self._vhost, "careless")

    async def unbind(self, pattern: str) -> None:
        async with await aio_pika.connect(self._url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            await channel.queue_unbind("work", "events", pattern)

    async def delete_queue(self, name: str) -> None:
        await self._http.request("DELETE", "queues", self._vhost, name)

    async def delete_exchange(self, name: str) -> None:
        await self._http.request("DELETE", "exchanges", self._vhost, name)


class Embedded:
    """A broker's file whose queues and bindings are changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.transport = SqliteTransport(file)
        self.management = SqliteManagement(file)

    async def _run(self, statement: str, *values: str) -> None:
        connection = SqliteConnection(self._file, prepare=schema.prepare, connections=NoCounter())
        try:
            await connection.write(lambda db, _now: db.execute(statement, values))
        finally:
            await connection.close()

    async def unbind(self, pattern: str) -> None:
        await self._run("DELETE FROM bindings WHERE queue = 'work' AND pattern = ?", pattern)

    async def delete_queue(self, name: str) -> None:
        await self._run("DELETE FROM queues WHERE name = ?", name)

    async def delete_exchange(self, name: str) -> None:
        await self._run("DELETE FROM exchanges WHERE name = ?", name)
        await self._run("DELETE FROM bindings WHERE exchange = ?", name)


@pytest.fixture
async def rabbit(rabbitmq_server, rabbitmq_vhost, rabbitmq_url):
    rabbit = Rabbit(rabbitmq_server, rabbitmq_vhost, rabbitmq_url)
    await rabbit.transport.declare(TOPOLOGY)
    return rabbit


@pytest.fixture
async def embedded(tmp_path):
    embedded = Embedded(tmp_path / "broker.db")
    await embedded.transport.declare(TOPOLOGY)
    return embedded


@pytest.fixture(params=["rabbit", "embedded"])
def broker(request):
    return request.getfixturevalue(request.param)


LOSING: dict[str, Any] = {"overflow": "drop-head", "expires": 3_600_000}
DELAYING: dict[str, Any] = {
    "max_length": 5,
    "max_length_bytes": 1_000,
    "message_ttl": 3_600_000,
    "delivery_limit": 3,
}
HARMLESS: dict[str, Any] = {
    "dead_letter_exchange": "elsewhere",
    "dead_letter_routing_key": "elsewhere",
    "overflow": "reject-publish",
}


async def test_a_policy_that_can_lose_messages_is_reported_and_refused_at_start(rabbit):
    monitored = Monitored(rabbit.transport, rabbit.management)
    assert await monitored.lines() == []
    for key, value in LOSING.items():
        await rabbit.set_policy(**{key: value})

        lines = await monitored.lines()
        again = await monitored.lines()
        with pytest.raises(ConfigurationError) as refusal:
            await check_policies(rabbit.management, TOPOLOGY)
        with pytest.raises(ConfigurationError, match="policy careless sets"):
            await check(rabbit.management, TOPOLOGY)

        assert {line["log_level"] for line in lines} == {"error"}, key
        assert {line["kind"] for line in lines} == {"policy_loses"}, key
        assert all(f"policy careless sets {key}" in line["problem"] for line in lines), key
        assert again == []
        assert monitored.count("policy_loses") == 3
        assert not monitored.is_ready
        assert len(str(refusal.value).splitlines()) == 3
        assert "queue work.dead: policy careless" in str(refusal.value)

        await rabbit.drop_policy()
        assert {line["event"] for line in await monitored.lines()} == {"topology_problem_solved"}
        assert monitored.is_ready


async def test_an_operator_policy_is_read_too(rabbit):
    await rabbit.set_policy(operator=True, expires=3_600_000)

    with pytest.raises(ConfigurationError, match="operator policy careless sets expires"):
        await check_policies(rabbit.management, TOPOLOGY)


async def test_a_policy_that_loses_nothing_is_a_warning_and_the_process_stays_ready(rabbit):
    monitored = Monitored(rabbit.transport, rabbit.management)
    for key, value in DELAYING.items():
        await rabbit.set_policy(**{key: value})

        lines = await monitored.lines()
        await check_policies(rabbit.management, TOPOLOGY)
        odd = await check(rabbit.management, TOPOLOGY)

        told = [line for line in lines if line["event"] == "topology_problem"]
        assert {line["log_level"] for line in told} == {"warning"}, key
        assert len(odd) == 3, key
        assert all(f"policy careless sets {key.replace('_', '-')}" in each for each in odd)
        assert monitored.is_ready
        await rabbit.drop_policy()
        await monitored.lines()
    await rabbit.set_policy(**HARMLESS)
    assert await check(rabbit.management, TOPOLOGY) == []


async def test_without_the_management_api_it_is_said_that_policies_are_not_checked(rabbit):
    with structlog.testing.capture_logs() as lines:
        await check_policies(None, TOPOLOGY)

    assert [line["event"] for line in lines] == ["policies_not_checked"]
    [odd] = await check(None, TOPOLOGY)
    assert "MQ_MANAGEMENT_URL is not set" in odd


async def test_a_management_api_that_cannot_be_asked_is_a_warning(rabbitmq_server, rabbit):
    refused = URL(rabbitmq_server.management_url).with_password("wrong")
    unreachable = RabbitMQManagement(URL("http://127.0.0.1:1"), vhost="/")
    monitored = Monitored(rabbit.transport, RabbitMQManagement(refused, vhost="/"))

    lines = await monitored.lines()
    with structlog.testing.capture_logs() as at_start:
        await check_policies(unreachable, TOPOLOGY)

    assert [(line["log_level"], line["kind"]) for line in lines] == [("warning", "unknown")]
    assert "MQ_MANAGEMENT_URL" in lines[0]["problem"]
    assert "wrong" not in lines[0]["problem"]
    assert monitored.is_ready
    assert [line["event"] for line in at_start] == ["policies_not_checked"]
    with pytest.raises(ConfigurationError, match="MQ_MANAGEMENT_URL: RabbitMQ refuses user or"):
        await check(RabbitMQManagement(refused, vhost="/"), TOPOLOGY)


@pytest.mark.parametrize("vhost", ["/", "lab"])
@pytest.mark.parametrize("path", ["/api", "/foo"])
async def test_a_management_url_with_another_path_is_refused(rabbitmq_server, path, vhost):
    """Its answers would say that nothing exists: no policy, no queue, no binding."""
    url = URL(rabbitmq_server.management_url).with_path(path)
    management = RabbitMQManagement(url, vhost=vhost)

    with pytest.raises(ConfigurationError, match=r"MQ_MANAGEMENT_URL: the answer .* without /api"):
        await check_policies(management, TOPOLOGY)
    with pytest.raises(ConfigurationError, match="without /api"):
        await management.missing_bindings(TOPOLOGY)


async def test_a_work_queue_with_the_delivery_limit_of_an_older_version_is_refused(rabbit):
    """A user that may not declare the queue learns of it only from the management API."""
    monitored = Monitored(rabbit.transport, rabbit.management)
    await rabbit.delete_queue("work")
    await rabbit.transport.declare(Topology(queues=[OLDER.work_queue("dead-letters")]))
    named = "queue work exists with another x-delivery-limit"

    with pytest.raises(ConfigurationError, match=named):
        await check_policies(rabbit.management, TOPOLOGY)
    with pytest.raises(ConfigurationError, match=named):
        await check(rabbit.management, TOPOLOGY)
    lines = await monitored.lines()

    assert (named, "differs") in [(line["problem"], line["kind"]) for line in lines]
    assert not monitored.is_ready


async def test_a_binding_that_was_removed_is_bound_again_and_reported(broker):
    monitored = Monitored(broker.transport, broker.management)
    await broker.unbind("a.#")

    [line] = await monitored.lines()

    assert (line["event"], line["log_level"]) == ("topology_repaired", "warning")
    assert line["problem"] == "queue work is not bound to exchange events by a.#"
    assert await broker.management.missing_bindings(TOPOLOGY) == []
    assert monitored.registry.get_sample_value("mq_topology_repaired_total") == 1
    assert await monitored.lines() == []


async def test_a_binding_is_bound_again_without_the_management_api(rabbit):
    """It cannot be noticed; the counter says that all were declared."""
    monitored = Monitored(rabbit.transport, None)
    await rabbit.unbind("a.#")

    assert await monitored.lines() == []

    assert await rabbit.management.missing_bindings(TOPOLOGY) == []
    assert monitored.registry.get_sample_value("mq_topology_declared_total") == 1


async def test_a_process_that_declares_nothing_reports_a_missing_binding_and_is_not_ready(broker):
    monitored = Monitored(broker.transport, broker.management, declares=False)
    await broker.unbind("b.*")

    [line] = await monitored.lines()

    assert (line["log_level"], line["kind"]) == ("error", "unbound")
    assert "by b.*" in line["problem"]
    assert not monitored.is_ready
    assert await broker.management.missing_bindings(TOPOLOGY) != []
    with pytest.raises(ConfigurationError, match=r"not bound to exchange events by b\.\*"):
        await check(broker.management, TOPOLOGY)

    await broker.transport.declare(TOPOLOGY)
    assert [line["event"] for line in await monitored.lines()] == ["topology_problem_solved"]
    assert monitored.is_ready


@pytest.mark.parametrize("gone", ["work.dead", "work.retry.1s"])
async def test_a_queue_beside_the_work_queue_that_was_deleted_is_declared_again(broker, gone):
    passive = Monitored(broker.transport, broker.management, declares=False)
    active = Monitored(broker.transport, broker.management)
    await broker.delete_queue(gone)

    lines = await passive.lines()
    repaired = await active.lines()

    assert f"queue {gone} does not exist" in [line["problem"] for line in lines]
    assert passive.count("differs") == 1
    assert not passive.is_ready
    assert f"queue {gone} does not exist" in [line["problem"] for line in repaired]
    assert {line["event"] for line in repaired} == {"topology_repaired"}
    assert active.is_ready
    assert await broker.transport.verify(TOPOLOGY) == []


async def test_an_exchange_that_was_deleted_is_declared_again_with_its_bindings(broker):
    monitored = Monitored(broker.transport, broker.management)
    await broker.delete_exchange("events")

    lines = await monitored.lines()

    assert {line["event"] for line in lines} == {"topology_repaired"}
    assert "exchange events does not exist" in [line["problem"] for line in lines]
    assert await broker.management.missing_bindings(TOPOLOGY) == []
