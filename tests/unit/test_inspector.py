import asyncio
from datetime import timedelta
from typing import Any

import pytest

from consumer.inspector import Inspector
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.topology import Queue, Topology

QUEUE = Queue("q", {"x-queue-type": "quorum"})


class Broker:
    """Answers with *answers*, one after another, and asks for an end after the last."""

    def __init__(self, *answers: Exception | None) -> None:
        self.asked: list[Topology] = []
        self.stop = asyncio.Event()
        self._answers = list(answers)

    async def verify(self, topology: Topology) -> list[str]:
        self.asked.append(topology)
        answer = self._answers.pop(0)
        if not self._answers:
            self.stop.set()
        if answer is not None:
            raise answer
        return []

    async def is_inspected(self) -> None:
        transport: Any = self
        inspector = Inspector(transport=transport, queue=QUEUE, every=timedelta(milliseconds=1))
        async with asyncio.timeout(10):
            await inspector.run(self.stop)


async def test_the_queue_is_compared_again_and_again_though_the_broker_may_be_away():
    broker = Broker(None, BrokerUnavailable("away"), None)

    await broker.is_inspected()

    assert broker.asked == [Topology(queues=[QUEUE])] * 3


async def test_a_queue_that_is_another_one_is_an_error():
    broker = Broker(None, TopologyMismatch("queue q exists with another x-overflow"), None)

    with pytest.raises(TopologyMismatch, match="another x-overflow"):
        await broker.is_inspected()
