"""
A real Prometheus scrapes the processes and the broker, and evaluates the rules of `deploy/`.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import outbox
from tests.support.builders import an_event, an_upload
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.prometheus.programs import Programs
from tests.support.prometheus.series import OF_BROKER
from tests.support.prometheus.server import PrometheusServer
from tests.support.servers import RabbitmqServer

SOON = 30.0


@pytest.fixture
async def deployment(
    postgres_url: str, rabbitmq_url: str, tmp_path: Path
) -> AsyncIterator[Deployment]:
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        yield deployment


async def port_of(process: ChildProcess) -> int:
    port: int = json.loads(await process.wait_for_line("probes_listening"))["port"]
    return port


async def becomes(prometheus: PrometheusServer, expression: str, value: float) -> None:
    """Wait until *expression* has one result, which is *value*."""
    found: list[object] = []

    async def is_there() -> bool:
        found[:] = [each for _, each in await prometheus.query(expression)]
        return found == [value]

    await eventually(is_there, within=SOON, message=f"{expression} is not {value}")


async def fires(prometheus: PrometheusServer, alert: str) -> None:
    """Wait until *alert* fires."""

    async def is_firing() -> bool:
        return alert in await prometheus.firing()

    await eventually(is_firing, within=SOON, message=f"{alert} does not fire")


async def test_prometheus_sees_events_by_record_type_and_alerts_on_what_goes_wrong(
    deployment: Deployment, prometheus_programs: Programs, rabbitmq_server: RabbitmqServer
):
    assert rabbitmq_server.metrics_port is not None, "the port of rabbitmq_prometheus is unknown"
    relay, consumer = await deployment.relay(), await deployment.consumer()
    broker = [rabbitmq_server.metrics_port]
    jobs = {
        "relay": [await port_of(relay)],
        "consumer": [await port_of(consumer)],
        "rabbitmq": broker,
        "rabbitmq-queues": broker,
    }
    async with PrometheusServer(prometheus_programs, jobs) as prometheus:
        await becomes(prometheus, "sum(up)", len(jobs))
        await fires(prometheus, "OutboxWatchdog")
        assert "OutboxEventsUnroutable" not in await prometheus.firing()

        async with deployment.engine.begin() as connection:
            uploads = [
                an_upload(record_type=each, user_id=each) for each in ("StepsRecord", "Jane")
            ]
            lost = an_event(type="unbound.event")
            await connection.execute(outbox.insert(*uploads, lost))

        for record_type in ("StepsRecord", "other"):
            for metric in ("mq_messages_published_total", "mq_messages_processed_total"):
                found = f'{metric}{{record_type="{record_type}",status="success"}}'
                await becomes(prometheus, found, 1)
        await becomes(prometheus, 'count({__name__=~".+",record_type="Jane"}) or vector(0)', 0)
        await becomes(prometheus, 'mq_messages_published_total{status="unroutable"} > bool 0', 1)
        for name in OF_BROKER:
            await becomes(prometheus, f"count({name}) > bool 0", 1)

        await fires(prometheus, "OutboxEventsUnroutable")
        assert "OutboxDeadLetters" not in await prometheus.firing()
        assert await prometheus.problems_of_rules() == {}

        await relay.terminate()

        await fires(prometheus, "OutboxRelayAbsent")
