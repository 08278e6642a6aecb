"""
The open connections to a broker, as `mq_active_connections` counts them.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import aiormq
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from yarl import URL

from outbox.runtime import logs
from outbox.runtime.process import Availability
from outbox.transports.base import ConnectionCounter, Transport
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Queue, Topology
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

QUEUE = "work"


class Metric:
    """The gauge as Prometheus reads it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.counter = Availability(logs.get("test"), self._registry).connections

    @property
    def value(self) -> float | None:
        return self._registry.get_sample_value("mq_active_connections")

    def becomes(self, value: int) -> Callable[[], bool]:
        return lambda: self.value == value


@pytest.fixture
def metric() -> Metric:
    return Metric()


def a_rabbitmq(url: str, connections: ConnectionCounter, *, method: str) -> RabbitMQTransport:
    return RabbitMQTransport(
        [URL(url)],
        heartbeat_seconds=3,
        name="test",
        connections=connections,
        delivery_method=method,
    )


@pytest.fixture(params=["frames", "callback"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["sqlite", "rabbitmq"])
def transport(request: pytest.FixtureRequest, tmp_path: Path, metric: Metric) -> Transport:
    if request.param == "sqlite":
        return SqliteTransport(
            tmp_path / "broker.db", poll=timedelta(milliseconds=10), connections=metric.counter
        )
    return a_rabbitmq(request.getfixturevalue("rabbitmq_url"), metric.counter, method="frames")


async def test_each_open_connection_counts_until_it_is_closed(transport, metric):
    assert metric.value == 0
    await transport.declare(Topology(queues=[Queue(QUEUE)]))
    assert metric.value == 0

    async with transport.publisher() as publisher:
        await publisher.ready()
        assert metric.value == 1
        async with transport.subscribe(QUEUE, prefetch=1):
            assert metric.value == 2
            await transport.depth(QUEUE)
            assert metric.value == 2
        assert metric.value == 1
    assert metric.value == 0


async def test_a_lost_connection_no_longer_counts(rabbitmq_url, metric, method):
    transport = a_rabbitmq(rabbitmq_url, metric.counter, method=method)
    await transport.declare(Topology(queues=[Queue(QUEUE)]))
    async with Proxy(rabbitmq_url) as proxy:
        behind_proxy = a_rabbitmq(proxy.url, metric.counter, method=method)
        async with transport.publisher() as publisher, behind_proxy.subscribe(QUEUE, prefetch=1):
            await publisher.ready()
            assert metric.value == 2

            await proxy.cut()

            await eventually(metric.becomes(1))
        assert metric.value == 0


async def test_a_connection_to_a_silent_broker_counts_until_its_heartbeats_fail(
    rabbitmq_url, metric, monkeypatch
):
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)
    await a_rabbitmq(rabbitmq_url, metric.counter, method="frames").declare(
        Topology(queues=[Queue(QUEUE)])
    )
    async with Proxy(rabbitmq_url) as proxy:
        behind_proxy = a_rabbitmq(proxy.url, metric.counter, method="frames")
        with capture_logs():
            async with behind_proxy.subscribe(QUEUE, prefetch=1):
                await proxy.drop_all()

                await eventually(metric.becomes(0), within=15)


async def test_a_broker_that_cannot_be_reached_leaves_the_count_at_zero(tmp_path, metric):
    (tmp_path / "broker.db").write_bytes(b"no database, but long enough to be taken for one" * 20)
    transport = SqliteTransport(tmp_path / "broker.db", connections=metric.counter)

    with pytest.raises(Exception, match="not a SQLite database"):
        await transport.depth(QUEUE)

    assert metric.value == 0
