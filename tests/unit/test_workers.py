"""
What the workers do with a delivery whose retry copy cannot be published.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from consumer import Consumer
from consumer.telemetry import Telemetry
from consumer.verdict import GiveUp, Retry
from consumer.workers import Workers
from outbox.backoff import Exponential
from outbox.codec import WireMessage
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.topology import ConsumerQueues
from outbox.transports.base import Delivery, Outcome

SECOND = timedelta(seconds=1)


class Script:
    """One delivery, and the answers that broker and database give; remembers what was asked."""

    def __init__(self, *outcomes: Outcome, database_away: int = 0) -> None:
        self.consumer = Consumer("test", bindings=["#"])
        self.asked: list[str] = []
        self._deliveries: list[Delivery] = [
            Delivery(WireMessage(exchange="", routing_key="q", body=b""), 1, redelivered=False)
        ]
        self._outcomes = list(outcomes)
        self._database_away = database_away
        self.stop_asked = asyncio.Event()

    @asynccontextmanager
    async def subscribe(self, *_: Any, **__: Any):
        yield self

    async def take(self, _limit: int) -> list[Delivery]:
        if self._deliveries:
            return [self._deliveries.pop()]
        self.stop_asked.set()
        return []

    async def stop(self) -> None:
        return

    async def make(self, _delivery: Delivery) -> Retry:
        self.asked.append("handler")
        return Retry(1, SECOND)

    async def replace(self, _delivery: Delivery, _copy: WireMessage) -> Outcome:
        self.asked.append("replace")
        return self._outcomes.pop(0)

    async def give_up(self, _delivery: Delivery, verdict: GiveUp) -> GiveUp:
        self.asked.append(f"give up: {verdict.code}")
        if self._database_away:
            self._database_away -= 1
            raise DatabaseUnavailable("away")
        return verdict

    async def ack(self, *_deliveries: Delivery) -> None:
        self.asked.append("ack")

    async def run(self) -> list[str]:
        workers: Any = Workers(
            transport=self,  # type: ignore[arg-type]
            queues=ConsumerQueues("q", bindings=["#"], delays=[SECOND]),
            attempts=self,  # type: ignore[arg-type]
            concurrency=1,
            prefetch=1,
            reconnect=Exponential(first=timedelta(milliseconds=1), cap=timedelta(milliseconds=1)),
            telemetry=Telemetry(CollectorRegistry(), queue="q", known=()),
            health=Health(),
            chance=lambda: 0.0,
        )
        async with asyncio.timeout(10):
            await workers.run(self.stop_asked)
        return self.asked


async def test_only_the_publish_is_repeated_until_the_copy_is_there():
    script = Script(Outcome.UNKNOWN, Outcome.NACKED, Outcome.ACKED)

    assert await script.run() == ["handler", "replace", "replace", "replace"]


async def test_a_copy_that_can_never_be_published_is_given_up_though_the_database_is_away():
    script = Script(Outcome.REJECTED, database_away=2)

    assert await script.run() == ["handler", "replace", *["give up: rejected"] * 3, "ack"]
