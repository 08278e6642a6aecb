"""
A consumer that is asked to stop does not wait for a silent broker.
"""

import asyncio

from consumer import Consumer
from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.service import serve
from consumer.settings import ConsumerSettings


async def test_a_consumer_that_stops_does_not_wait_for_a_check_of_a_silent_broker(
    sqlite_url, embedded_broker_url, monkeypatch
):
    stop = asyncio.Event()

    async def look_for_ever(*_: object) -> None:
        stop.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(TopologyMonitor, "run", look_for_ever)
    settings = ConsumerSettings(
        _env_file=None, database_url=sqlite_url, broker_url=embedded_broker_url, metrics_port=0
    )

    consumer = Consumer("etl", bindings=["#"])

    @consumer.on("test.tick")
    async def handle(_message: object, _session: object) -> None: ...

    async with asyncio.timeout(20):
        await serve(consumer, settings, stop)
