"""
What the workers do with a delivery whose retry copy cannot be published.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.worker import Worker
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.queues import ConsumerQueues
from consumer.telemetry import Telemetry
from consumer.verdict import TryAgain
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

SECOND = timedelta(seconds=1)
MILLISECOND = timedelta(milliseconds=1)


class Script:
    """One delivery, and the answers that broker and database give; remembers what was asked."""

    def __init__(self, *outcomes: Outcome, database_away: int = 0) -> None:
        self.asked: list[str] = []
        self._deliveries: list[Delivery] = [
            Delivery(WireMessage(exchange="", routing_key="q", body=b""), 1, redelivered=False)
        ]
        self._outcomes = list(outcomes)
        self._database_away = database_away
        self._settled = asyncio.Event()
        self.stop_asked = asyncio.Event()

    @asynccontextmanager
    async def subscribe(self, *_: Any, **__: Any):
        yield self

    async def take(self, _limit: int) -> list[Delivery]:
        if not self._deliveries:
            await self._settled.wait()
            self.stop_asked.set()
        return [self._deliveries.pop()] if self._deliveries else []

    async def raise_prefetch(self, _prefetch: int) -> None:
        return

    async def stop(self) -> None:
        return

    async def ready(self) -> bool:
        return True

    async def execute(self, _unit: DeliveryBatch) -> list[TryAgain]:
        self.asked.append("handler")
        return [TryAgain(1, SECOND)]

    async def replace(self, _delivery: Delivery, _copy: WireMessage) -> Outcome:
        self.asked.append("retry")
        outcome = self._outcomes.pop(0)
        if outcome is Outcome.ACKED:
            self._settled.set()
        return outcome

    async def write(self, _message: WireMessage, *, reason: str, **_: int) -> bool:
        self.asked.append(f"give up: {reason}")
        if self._database_away:
            self._database_away -= 1
            raise DatabaseUnavailable("away")
        return True

    async def ack(self, *_deliveries: Delivery) -> None:
        self.asked.append("ack")
        self._settled.set()

    async def run(self) -> list[str]:
        it: Any = self
        telemetry = Telemetry(CollectorRegistry(), source="test", queue="q", known=())
        database_retry = DatabaseRetry(
            reconnect=Exponential(first=MILLISECOND, cap=MILLISECOND),
            telemetry=telemetry,
            health=Health(),
            jitter=lambda: 0.0,
        )
        workers = Worker(
            transport=it,
            queue="q",
            delivery_queue=DeliveryQueue({}),
            executor=it,
            settlement=Settlement(
                queues=ConsumerQueues("q", bindings=["#"], delays=[SECOND]),
                dead_letter_writer=it,
                lanes=None,
                database_retry=database_retry,
                telemetry=telemetry,
            ),
            database_retry=database_retry,
            concurrency=1,
            prefetch=1,
            ordered=False,
            telemetry=telemetry,
            health=Health(),
        )
        async with asyncio.timeout(10):
            await workers.run(self.stop_asked)
        return self.asked


async def test_a_worker_repeats_only_the_publish_until_it_is_confirmed():
    script = Script(Outcome.UNKNOWN, Outcome.NACKED, Outcome.ACKED)

    assert await script.run() == ["handler", "retry", "retry", "retry"]


async def test_a_copy_that_can_never_be_published_is_dead_lettered_once_the_database_is_back():
    script = Script(Outcome.REJECTED, database_away=2)

    assert await script.run() == ["handler", "retry", *["give up: rejected"] * 3, "ack"]
